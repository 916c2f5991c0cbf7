//! The text of a batch script. Does not know how it is submitted.

use super::settings::SlurmSettings;
use crate::exec::worker::SUSPENDED;
use crate::kind::attempt::Job;
use std::ffi::OsString;
use std::path::Path;

/// What a job asks for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The name of the job, which is how it is found again.
    pub name: &'a str,
    /// For people who look at the queue.
    pub comment: &'a str,
    pub threads: usize,
    /// Bytes; 0: the site's default.
    pub mem: u64,
    pub gpus: usize,
    pub log: &'a Path,
    /// If this file is there, a suspended job is not requeued.
    pub stop: &'a Path,
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
pub fn script(settings: &SlurmSettings, request: &Request<'_>, job: &Job) -> String {
    let Request { name, threads, .. } = *request;
    let mut options = vec![
        ("output", escaped(&request.log.to_string_lossy())),
        ("comment", quoted(request.comment)),
        ("export", "NONE".into()),
        ("signal", format!("TERM@{}", settings.grace.as_secs())),
        ("ntasks", "1".into()),
        ("cpus-per-task", threads.to_string()),
    ];
    if request.mem > 0 {
        options.push(("mem", format!("{}M", request.mem.div_ceil(1 << 20))));
    }
    if request.gpus > 0 {
        options.push(("gpus-per-task", request.gpus.to_string()));
    }
    let stated = [
        ("partition", &settings.partition),
        ("account", &settings.account),
        ("qos", &settings.qos),
        ("time", &settings.time),
        ("constraint", &settings.constraint),
        ("reservation", &settings.reservation),
    ];
    options.extend(stated.into_iter().filter_map(|(name, value)| Some((name, quoted(value.as_ref()?)))));
    let mut lines = vec![
        "#!/bin/sh".to_string(),
        format!("#SBATCH --job-name={name} --dependency=singleton --requeue --open-mode=append"),
    ];
    lines.extend(options.into_iter().map(|(name, value)| format!("#SBATCH --{name}={value}")));
    lines.extend(settings.extra.iter().map(|option| format!("#SBATCH {option}")));
    lines.extend(settings.setup.iter().cloned());
    lines.extend(request.environment.iter().map(|(name, value)| format!("export {name}={}", quoted(value))));
    let worker: Vec<String> = request.worker.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    let (worker, file) = (worker.join(" "), quoted(&job.file().to_string_lossy()));
    let stop = quoted(&request.stop.to_string_lossy());
    lines.extend([
        "unset SLURM_EXPORT_ENV".into(),
        format!("srun --cpus-per-task={threads} --kill-on-bad-exit=1 --export=ALL {worker} {file}"),
        "status=$?".into(),
        format!("[ $status = {SUSPENDED} ] && [ ! -e {stop} ] && scontrol requeue $SLURM_JOB_ID && sleep 60"),
        "exit $status".into(),
    ]);
    lines.join("\n") + "\n"
}

/// As one word for a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// As a file name of `sbatch`, which fills in `%` and reads words as a shell does.
fn escaped(path: &str) -> String {
    quoted(&path.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("/a/b-c_1.2"), "/a/b-c_1.2");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
        assert_eq!(escaped("/a/100%/b"), "/a/100%%/b");
    }
}
