//! The text of a batch script. Does not know how it is submitted.

use crate::exec::launch::mpirun::{MPIRUN, mpirun};
use crate::exec::worker::SUSPENDED;
use crate::kind::attempt::Job;
use crate::kind::ranks::Numbering;
use crate::settings::{MpiStart, StageSettings};
pub(super) use crate::text::shell::quoted;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// What a job needs. Each of its ranks has so many threads and so much memory.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    pub ranks: usize,
    pub threads: usize,
    /// Bytes; 0: the site's default.
    pub mem: u64,
    /// Of all ranks together, each of which has one if there are several.
    pub gpus: usize,
}

/// What a job asks for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The name of the job, which is how it is found again.
    pub name: &'a str,
    /// For people who look at the queue.
    pub comment: &'a str,
    pub needs: Needs,
    /// Its ranks find each other by MPI.
    pub over_mpi: bool,
    pub log: &'a Path,
    /// If this file is there, a suspended job is not requeued.
    pub stop: &'a Path,
    /// Time before its limit at which it is asked to stop.
    pub grace: Duration,
    /// Variables of the worker.
    pub environment: &'a [(&'static str, String)],
    /// The worker's program and arguments.
    pub worker: &'a [OsString],
}

/// The script of a job.
///
/// - `srun` even for one task: at the begin of a preemption only what it started gets a signal.
/// - `--dependency=singleton`: two jobs of one name and user never run at once.
/// - `--export=NONE`: the shell of whoever submits is no part of an experiment. `srun` would hand
///   that on, hence the `unset`. `--cpus-per-task` twice, for Slurm from 22.05 on.
/// - A worker that was asked to stop (a preemption, a time limit) requeues its job, so that a
///   training outlives both with no runner alive. After `scancel` that line is not reached.
pub fn script(settings: &StageSettings, request: &Request<'_>, job: &Job) -> String {
    let Request { name, needs: Needs { ranks, threads, .. }, .. } = *request;
    let fixed = [
        ("output", escaped(&request.log.to_string_lossy())),
        ("comment", quoted(request.comment)),
        ("export", "NONE".into()),
        ("signal", format!("TERM@{}", request.grace.as_secs())),
    ];
    let first = format!("--job-name={name} --dependency=singleton --requeue --open-mode=append");
    let mut lines = head(&first, &fixed, settings, request.needs);
    lines.extend(request.environment.iter().map(|(name, value)| format!("export {name}={}", quoted(value))));
    let worker: Vec<String> = request.worker.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    let (worker, file) = (worker.join(" "), quoted(&job.file().to_string_lossy()));
    // A rank that has done its part does not end the others.
    let wait = if ranks > 1 { " --wait=0" } else { "" };
    let mpi = match (request.over_mpi, settings.mpi.unwrap_or_default()) {
        (true, MpiStart::Pmix) => " --mpi=pmix",
        (true, MpiStart::Pmi2) => " --mpi=pmi2",
        _ => "",
    };
    let start = match job.numbering {
        Numbering::Mpi => format!("{MPIRUN} {}", mpirun(ranks).join(" ")),
        _ => format!("srun --cpus-per-task={threads} --kill-on-bad-exit=1{wait}{mpi} --export=ALL"),
    };
    let stop = quoted(&request.stop.to_string_lossy());
    lines.extend([
        "unset SLURM_EXPORT_ENV".into(),
        format!("{start} {worker} {file}"),
        "status=$?".into(),
        // The number of one task of an array is also that of the whole.
        "task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}".into(),
        format!(
            "[ $status = {SUSPENDED} ] && [ ! -e {stop} ] && scontrol requeue ${{task:-$SLURM_JOB_ID}} && sleep 60"
        ),
        "exit $status".into(),
    ]);
    lines.join("\n") + "\n"
}

/// The first lines of a script: its options, what the job needs, and what settings add to both.
pub(super) fn head(
    first: &str,
    fixed: &[(&'static str, String)],
    settings: &StageSettings,
    requested: Needs,
) -> Vec<String> {
    let mut lines = vec!["#!/bin/sh".to_string(), format!("#SBATCH {first}")];
    lines.extend(fixed.iter().map(|(name, value)| format!("#SBATCH --{name}={value}")));
    let needs = needs(settings, requested);
    lines.extend(needs.into_iter().map(|(name, value)| format!("#SBATCH --{name}={}", quoted(&value))));
    lines.extend(settings.sbatch.iter().flatten().map(|option| format!("#SBATCH {option}")));
    lines.extend(settings.setup.iter().flatten().cloned());
    lines
}

/// What a job needs, as options of `sbatch`.
pub fn needs(settings: &StageSettings, needs: Needs) -> Vec<(&'static str, String)> {
    let Needs { ranks, threads, mem, gpus } = needs;
    let mut options = vec![("ntasks", ranks.to_string()), ("cpus-per-task", threads.to_string())];
    let megabytes = |bytes: u64| format!("{}M", bytes.div_ceil(1 << 20));
    match (mem, ranks) {
        (0, _) => {}
        // `mem` is that of a node, and how ranks are spread over nodes is Slurm's business.
        (_, 2..) => options.push(("mem-per-cpu", megabytes(mem.div_ceil(threads as u64)))),
        _ => options.push(("mem", megabytes(mem))),
    }
    if gpus > 0 {
        options.push(("gpus-per-task", (gpus / ranks).to_string()));
    }
    if let (2.., 1.., Some(most)) = (ranks, gpus, settings.gpus_per_node) {
        options.push(("ntasks-per-node", most.min(ranks).to_string()));
    }
    let stated = [
        ("partition", &settings.partition),
        ("account", &settings.account),
        ("qos", &settings.qos),
        ("time", &settings.time),
        ("constraint", &settings.constraint),
        ("reservation", &settings.reservation),
    ];
    options.extend(stated.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    options
}

/// As a file name of `sbatch`, which fills in `%` and reads words as a shell does.
pub(super) fn escaped(path: &str) -> String {
    quoted(&path.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_asks_for_what_stage_and_site_say() {
        let settings = StageSettings {
            partition: Some("gpu".into()),
            sbatch: Some(vec!["--nice=100".into()]),
            setup: Some(vec!["module load cuda".into()]),
            ..StageSettings::default()
        };
        let request = Request {
            name: "erw-1",
            comment: "two words",
            needs: Needs { ranks: 1, threads: 4, mem: (1 << 30) + 1, gpus: 2 },
            over_mpi: false,
            log: Path::new("/c/work/k/attempt-2.log"),
            stop: Path::new("/c/work/k/stop"),
            grace: Duration::from_secs(90),
            environment: &[("A", "b c".into())],
            worker: &["/bin/erw".into(), "worker".into()],
        };
        let job = serde_json::json!({"stage": "s", "kind": "k", "key": "", "params": {}, "operation": {}, "inputs": {},
            "outputs": {}, "work_dir": "/c/work/k", "attempt": 2, "threads": 4, "device": "cpu"});
        let wanted = "#!/bin/sh
#SBATCH --job-name=erw-1 --dependency=singleton --requeue --open-mode=append
#SBATCH --output=/c/work/k/attempt-2.log
#SBATCH --comment='two words'
#SBATCH --export=NONE
#SBATCH --signal=TERM@90
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=1025M
#SBATCH --gpus-per-task=2
#SBATCH --partition=gpu
#SBATCH --nice=100
module load cuda
export A='b c'
unset SLURM_EXPORT_ENV
srun --cpus-per-task=4 --kill-on-bad-exit=1 --export=ALL /bin/erw worker /c/work/k/attempt-2.json
status=$?
task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
[ $status = 3 ] && [ ! -e /c/work/k/stop ] && scontrol requeue ${task:-$SLURM_JOB_ID} && sleep 60
exit $status
";
        assert_eq!(script(&settings, &request, &serde_json::from_value(job).unwrap()), wanted);
    }

    #[test]
    fn every_rank_has_its_share_of_the_nodes() {
        let settings = StageSettings { gpus_per_node: Some(4), ..StageSettings::default() };
        let options = needs(&settings, Needs { ranks: 8, threads: 8, mem: 60 << 30, gpus: 8 });
        let options: Vec<String> = options.into_iter().map(|(name, value)| format!("--{name}={value}")).collect();
        let wanted = "--ntasks=8 --cpus-per-task=8 --mem-per-cpu=7680M --gpus-per-task=1 --ntasks-per-node=4";
        assert_eq!(options.join(" "), wanted);
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("/a/b-c_1.2"), "/a/b-c_1.2");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
        assert_eq!(escaped("/a/100%/b"), "/a/100%%/b");
    }
}
