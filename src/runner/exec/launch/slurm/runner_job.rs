//! A run as a job of its own (`--detach`), which submits the stages as further jobs. It outlives
//! the terminal and the login node, and where its time is over or it is preempted it goes on as a
//! new run: jobs of stages do not depend on the life of a run.
//!
//! ```text
//! v1/runners/<name>.{json,sh,log}      who submitted what; the script; what the run printed
//! ```
//!
//! The same command in the same cache has the same name, so it is one job. Does not know what the
//! run does.

use super::commands::{Answer, LIMIT, run};
use super::pace::GRACE;
use super::placed::token;
use super::script::{Needs, escaped, head, quoted};
use super::unattended;
use crate::cache::store::Store;
use crate::files::disk::{Durability, list, read_json, write_file, write_json};
use crate::host::{user, utc_now};
use crate::pipeline::graph::Pipeline;
use crate::settings::Settings;
use erw_base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The exit status of a run that was asked to end and leave its jobs alone.
const LEFT: i32 = 128 + libc::SIGTERM;

/// A run as a job.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunnerJob {
    /// The name of the job.
    pub name: String,
    /// Name of the pipeline, and its file without links.
    pub pipeline: String,
    pub file: PathBuf,
    pub command: Vec<String>,
    pub user: String,
    /// When it was submitted, UTC.
    pub at: String,
}

/// A job that was submitted.
#[derive(Debug)]
pub struct Submitted {
    pub id: String,
    /// What the run prints.
    pub log: PathBuf,
}

/// The word of its command that says which job a run is.
pub fn mark(name: &str) -> String {
    format!("--runner-job={name}")
}

fn folder(store: &Store) -> PathBuf {
    store.v1("runners")
}

/// The runs of a cache folder that were submitted as jobs, also those that have ended.
pub fn all(store: &Store) -> Result<Vec<RunnerJob>> {
    let files = list(&folder(store))?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "json"));
    let mut all: Vec<RunnerJob> =
        files.map(|file| read_json(&file)).filter_map(Result::transpose).collect::<Result<_>>()?;
    all.sort_by(|a, b| (&a.at, &a.name).cmp(&(&b.at, &b.name)));
    Ok(all)
}

/// Submits a command of this program, which is to run in this folder. There its word `flag`, by
/// which it was to be a job, is the one that says which job it is.
///
/// # Errors
/// When it is refused, or is a job already.
pub fn submit(
    store: &Store,
    settings: &Settings,
    pipeline: &Pipeline,
    (words, flag): (&[OsString], &str),
    here: &Path,
) -> Result<Submitted> {
    let mut command: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let file = pipeline.file.canonicalize().unwrap_or_else(|_| pipeline.file.clone());
    let name = token(store.root(), &format!("{} {}", command.join("\n"), file.display()));
    command.iter_mut().filter(|word| *word == flag).for_each(|word| *word = mark(&name));
    let seen = unattended::look(std::slice::from_ref(&name))?.remove(&name);
    if let Some(seen) = seen.filter(|seen| !seen.status.has_ended()) {
        let state = seen.status.state.to_lowercase();
        return Err(Error::usage(format!("this run is a job already: {} is {state}", seen.status.id))
            .hint("run `erw jobs` to see it, `erw stop` to stop it"));
    }
    let folder = folder(store);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let beside = |end: &str| folder.join(format!("{name}.{end}"));
    let (note, path, log) = (beside("json"), beside("sh"), beside("log"));
    let job = RunnerJob { name, pipeline: pipeline.name.clone(), file, command, user: user(), at: utc_now() };
    write_file(&path, script(settings, &job, &log, here).as_bytes(), Durability::Now)
        .map_err(|e| Error::io("write", &path, e))?;
    write_json(&note, &job, Durability::Now)?;
    let _ = std::fs::remove_file(&log);
    match run("sbatch", &["--parsable".into(), path.to_string_lossy().into_owned()], LIMIT)? {
        // With several clusters: `17;cluster`.
        Answer::Text(text) => Ok(Submitted { id: text.split(';').next().unwrap_or_default().into(), log }),
        Answer::Refused(words) => Err(Error::usage("`sbatch` refused the job of the run")
            .because(words)
            .hint("run `erw config list --show-origin` to see who states `runner.partition` and the like")),
        Answer::Silence(words) => Err(Error::stage("it is unknown whether the job of the run was submitted")
            .because(words)
            .hint("run `erw jobs` to see it, if it was")),
    }
}

/// The script of a run.
///
/// - Unlike that of a stage it has the environment of whoever submits: it stands for a command that
///   was typed there.
/// - Without `srun`, so that a preemption does not reach the run. Where its time is over (SIGUSR1),
///   it is asked to leave its jobs alone, and the job is requeued.
/// - `erw stop` sends a SIGINT, which stops the run with its jobs.
fn script(settings: &Settings, job: &RunnerJob, log: &Path, here: &Path) -> String {
    let options = settings.runner();
    let grace = settings.grace.unwrap_or(GRACE).as_secs();
    let fixed = [
        ("output", escaped(&log.to_string_lossy())),
        ("comment", quoted(&format!("erw run of {}", job.pipeline))),
        ("signal", format!("B:USR1@{grace}")),
    ];
    let threads = options.job_threads.unwrap_or(1);
    let first = format!("--job-name={} --dependency=singleton --requeue --open-mode=append", job.name);
    let mut lines = head(&first, &fixed, &options, Needs { ranks: 1, threads, mem: 0, gpus: 0 });
    let words: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    lines.extend([
        format!("cd {} || exit", quoted(&here.to_string_lossy())),
        format!("{} &", words.join(" ")),
        "run=$!".into(),
        "trap 'over=yes; kill -TERM $run' USR1".into(),
        "trap 'kill -INT $run' INT".into(),
        // A trap ends a wait.
        "while kill -0 $run 2> /dev/null; do wait $run; status=$?; done".into(),
        format!("[ -n \"$over\" ] && [ $status = {LEFT} ] && scontrol requeue $SLURM_JOB_ID && sleep 60"),
        "exit $status".into(),
    ]);
    lines.join("\n") + "\n"
}
