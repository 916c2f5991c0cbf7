//! Jobs as others see them who do not attend them: where they are, and a request to stop where no
//! run lives that could obey one. Does not know runs.

use super::array::parts;
use super::commands::{Answer, LIMIT, run};
use super::placed::Placed;
use super::state::{JobEnd, JobStatus, Phase, parse};
use crate::cache::key::Key;
use crate::cache::store::Store;
use crate::exec::attempt_report::{AttemptEnd, AttemptReport};
use crate::exec::stop_request;
use crate::files::disk::{read_json, remove};
use crate::host::utc;
use erw_base::error::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Names in one question: a command line has a limit.
const NAMES: usize = 500;
/// How often a lock is tried.
const TICK: Duration = Duration::from_millis(200);

/// What the scheduler says of a job.
#[derive(Debug, Clone)]
pub struct Seen {
    pub status: JobStatus,
    /// When it started, or else was submitted, UTC; `None`: it does not say.
    pub since: Option<String>,
}

/// The newest job of each of these names, of all users. Those that it does not know are missing.
///
/// # Errors
/// When there is no `squeue`, or it does not answer.
pub fn look(names: &[String]) -> Result<HashMap<String, Seen>> {
    let mut found: HashMap<String, Seen> = HashMap::new();
    let jobs: BTreeSet<&str> = names.iter().map(|name| parts(name).0).collect();
    let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for names in jobs.into_iter().collect::<Vec<_>>().chunks(NAMES) {
        let arguments =
            ["--noheader", "--array", "--states=all", "-o", "%i|%j|%T|%r|%N|%V|%S", "--name", &names.join(",")]
                .map(String::from);
        let text = match run("squeue", &arguments, LIMIT)? {
            Answer::Text(text) => text,
            Answer::Refused(words) | Answer::Silence(words) => {
                return Err(Error::stage("Slurm does not answer").because(words).hint("jobs go on meanwhile"));
            }
        };
        // In the order of their ids, so that the newest one stays.
        let mut lines: Vec<(String, Seen)> =
            text.lines().filter_map(line).filter(|(name, _)| wanted.contains(name.as_str())).collect();
        lines.sort_by_key(|(_, seen)| seen.status.number());
        found.extend(lines);
    }
    Ok(found)
}

/// Whether the job of a stage, which no run attends, has done its work. If not, nothing more comes of
/// it.
///
/// # Errors
/// When it waits or runs, so that nobody else may do the work, or when that cannot be told.
pub fn is_done(work: &Path, placed: &Placed) -> Result<bool> {
    let report: Option<AttemptReport> = read_json(&placed.end_file(work))?;
    if report.is_some_and(|report| matches!(report.end, AttemptEnd::Done)) {
        return Ok(true);
    }
    let (stage, name) = (&placed.stage, &placed.name);
    let seen = look(std::slice::from_ref(name)).map_err(|e| {
        let note = Placed::file(work);
        e.context(format!(
            "stage `{stage}` was submitted as the job `{name}` of Slurm, and what became of it is unknown"
        ))
        .hint(format!("if its cluster is gone, remove `{}`", note.display()))
    })?;
    match seen.get(name).filter(|seen| !seen.status.has_ended()) {
        None => Ok(false),
        Some(seen) => {
            let (id, state) = (&seen.status.id, seen.status.state.to_lowercase());
            Err(Error::stage(format!("stage `{stage}` is a job of Slurm already: {id} is {state}"))
                .hint("pass `--launcher slurm` to wait for it, or run `erw stop` to stop it"))
        }
    }
}

fn line(line: &str) -> Option<(String, Seen)> {
    let mut parts = line.rsplitn(3, '|');
    let (started, submitted, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (name, status) = parse(rest)?;
    let since = if status.phase() == Phase::Pending { submitted } else { started };
    let since = since.trim().parse().ok().map(|seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds)));
    Some((name, Seen { status, since }))
}

/// What a request to stop did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// It waited, and will not start.
    Cancelled,
    /// It saves a checkpoint and ends.
    Asked,
    /// It has ended already.
    Over,
    /// A run attends it, which was asked and is at it.
    Attended,
}

/// Stops the job of a stage. A run that attends it has until then to obey, or to end: one that only
/// just ends would leave the job alone.
///
/// # Errors
/// When the scheduler does not answer.
pub fn stop(store: &Store, key: &Key, placed: &Placed, until: Instant) -> Result<Stopped> {
    let work = store.work_dir(key);
    stop_request::ask(&work)?;
    // Whoever attends it has the lock.
    let _lock = loop {
        match store.try_lock(key)? {
            Some(lock) => break lock,
            None if Instant::now() > until => return Ok(Stopped::Attended),
            None => std::thread::sleep(TICK),
        }
    };
    if Placed::read(&work)?.is_none_or(|now| now.name != placed.name) {
        return Ok(Stopped::Over);
    }
    let name = placed.name.as_str();
    cancel(name, &["--state=PENDING"])?;
    let seen = look(&[name.to_string()])?.remove(name);
    let phase = seen.map(|seen| seen.status.phase());
    match phase {
        Some(Phase::Ended(_)) | None => {
            let has_ended = placed.end_file(&work).exists();
            let is_cancelled = matches!(phase, Some(Phase::Ended(JobEnd::Cancelled)));
            // The next run would take the cancellation for that of a person.
            match (is_cancelled, has_ended) {
                (false, _) => Ok(Stopped::Over),
                // It was requeued: there is a report, of a suspension, or even of an end.
                (true, true) => {
                    Placed { stopped: true, ..placed.clone() }.write(&work)?;
                    Ok(Stopped::Cancelled)
                }
                (true, false) => {
                    let note = Placed::file(&work);
                    remove(&note).map_err(|e| Error::io("remove", &note, e))?;
                    Ok(Stopped::Cancelled)
                }
            }
        }
        Some(_) => {
            Placed { stopped: true, ..placed.clone() }.write(&work)?;
            cancel(name, &["--signal=TERM", "--state=RUNNING"])?;
            Ok(Stopped::Asked)
        }
    }
}

/// Stops a run that is a job, with its stages.
///
/// # Errors
/// When the scheduler does not answer.
pub fn stop_runner(seen: Option<&Seen>) -> Result<Stopped> {
    let Some(Seen { status, .. }) = seen else { return Ok(Stopped::Over) };
    match status.phase() {
        Phase::Ended(_) => Ok(Stopped::Over),
        Phase::Running => {
            tell("scancel", &["--batch", "--signal=INT", &status.id])?;
            Ok(Stopped::Asked)
        }
        Phase::Pending | Phase::Held => {
            tell("scancel", &[&status.id])?;
            Ok(Stopped::Cancelled)
        }
    }
}

/// Cancels the jobs of this name, or does to them what the options say.
///
/// # Errors
/// When it is not known to be done.
pub(super) fn cancel(name: &str, options: &[&str]) -> Result<()> {
    if parts(name).1.is_none() {
        return tell("scancel", &[options, &["--name", name]].concat());
    }
    // Names are those of whole arrays; a task is told by its number.
    match look(&[name.to_string()])?.remove(name).filter(|seen| !seen.status.has_ended()) {
        Some(seen) => tell("scancel", &[options, &[seen.status.id.as_str()]].concat()),
        None => Ok(()),
    }
}

/// Gives an order.
///
/// # Errors
/// When it is not known to be obeyed.
pub(super) fn tell(command: &str, arguments: &[&str]) -> Result<()> {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    match run(command, &arguments, LIMIT)? {
        Answer::Text(_) => Ok(()),
        Answer::Refused(words) | Answer::Silence(words) => {
            Err(Error::stage(format!("`{command}` did not do what it was told")).because(words))
        }
    }
}
