//! How the ranks of an attempt begin together and learn of each other's ends: by files in the work
//! folder, which all of them see.
//!
//! ```text
//! work/<key>/attempt-N.start.json         rank 0: the inputs are sound, begin
//! work/<key>/attempt-N.rank-R.end.json    another rank: it was stopped, or has failed
//! ```
//!
//! Rank 0 verifies the inputs, and the others wait until it has: what they would make of a damaged
//! input would outlive it among the checkpoints. It also says what it runs, and another version or
//! build is an error. Where ranks are killed because one of them has failed, that one is to be told
//! of, not the kill; so each notes its own end, rank 0 watches these notes, and reports.
//!
//! A requeued job starts the same attempt again, so a file names the start that it belongs to. Does
//! not know what the ranks do.

use super::attempt_report::{AttemptEnd, Machine};
use crate::event::Failure;
use crate::files::disk::{self, Durability, read_json, write_json};
use crate::host;
use crate::kind::attempt::Job;
use crate::text::log_lines::tail;
use erw_base::error::{Error, Result};
use erw_base::limits;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often files of other ranks are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How often rank 0 looks for ends of others.
const WATCH: Duration = Duration::from_millis(500);

/// What rank 0 says at the start.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    start: String,
    program: Program,
}

/// What a rank runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Program {
    version: String,
    /// Bytes of the file: two builds of one version differ in it, too.
    size: u64,
    path: PathBuf,
    host: String,
}

/// What another rank says at its end.
#[derive(Debug, Serialize, Deserialize)]
struct RankEnd {
    start: String,
    rank: usize,
    end: AttemptEnd,
}

fn start_file(job: &Job) -> PathBuf {
    job.work_dir.join(format!("attempt-{}.start.json", job.attempt))
}

fn end_file(job: &Job, rank: usize) -> PathBuf {
    job.work_dir.join(format!("attempt-{}.rank-{rank}.end.json", job.attempt))
}

/// Names this start among those of one attempt: a job of Slurm can be requeued.
fn start() -> String {
    let variable = |name| std::env::var(name).unwrap_or_default();
    format!("{} {}", variable("SLURM_JOB_ID"), variable("SLURM_RESTART_COUNT"))
}

impl Program {
    fn this() -> Self {
        let path = std::env::current_exe().unwrap_or_default();
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        Self { version: env!("CARGO_PKG_VERSION").into(), size, path, host: host::host() }
    }

    fn told(&self) -> String {
        format!("version {} at `{}` on {}, {} bytes", self.version, self.path.display(), self.host, self.size)
    }
}

/// Rank 0: lets the others begin.
pub fn begin(job: &Job) -> Result<()> {
    write_json(&start_file(job), &Start { start: start(), program: Program::this() }, Durability::Later)
}

/// Another rank: waits until rank 0 lets it begin, and compares the programs.
///
/// # Errors
/// When this one is another program, or was asked to stop.
pub fn join(job: &Job, rank: usize, stop: &AtomicBool) -> Result<()> {
    let (file, start) = (start_file(job), start());
    let said = loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::suspended());
        }
        // Half a file of a rank that was killed while writing is impossible: it is renamed.
        let said: Option<Start> = if disk::is_seen(&file) { read_json(&file)? } else { None };
        if let Some(said) = said.filter(|said| said.start == start) {
            break said;
        }
        std::thread::sleep(TICK);
    };
    same_program(&said.program, &Program::this(), rank)?;
    let work = &job.work_dir;
    host::join(work, &Machine::name_of(job)).map_err(|e| Error::io("write to", work, e))
}

fn same_program(first: &Program, own: &Program, rank: usize) -> Result<()> {
    if (&first.version, first.size) == (&own.version, own.size) {
        return Ok(());
    }
    Err(Error::usage(format!("rank {rank} runs another build of erw than rank 0"))
        .because(format!("rank 0: {}", first.told()))
        .because(format!("rank {rank}: {}", own.told()))
        .hint("install the same build on all nodes"))
}

/// Another rank: notes how it ended, unless it is done.
pub fn end(job: &Job, rank: usize, end: AttemptEnd) -> Result<()> {
    write_json(&end_file(job, rank), &RankEnd { start: start(), rank, end }, Durability::Later)
}

/// The ends that other ranks have noted, in whatever start.
fn ends(job: &Job) -> Vec<RankEnd> {
    let is_one = |path: &PathBuf| (1..job.ranks).any(|rank| *path == end_file(job, rank));
    let read = |path: PathBuf| read_json::<RankEnd>(&path).ok().flatten();
    let all = disk::list(&job.work_dir).unwrap_or_default();
    all.into_iter().filter(is_one).filter_map(read).collect()
}

/// Those noted in this start.
fn ends_now(job: &Job) -> Vec<RankEnd> {
    let start = start();
    ends(job).into_iter().filter(|end| end.start == start).collect()
}

/// The failure of another rank in this start, which may be why this one cannot go on.
pub fn failure(job: &Job) -> Option<Failure> {
    first_failure(job, ends_now(job))
}

/// The failure of another rank than the first, told by a process that is none of them.
pub fn failure_in_job(job: &Job) -> Option<Failure> {
    first_failure(job, ends(job))
}

fn first_failure(job: &Job, ends: Vec<RankEnd>) -> Option<Failure> {
    ends.into_iter().find_map(|RankEnd { rank, end, .. }| match end {
        AttemptEnd::Failed(failure) => Some(of_rank(job, rank, failure)),
        _ => None,
    })
}

/// A failure of this rank, with its log.
pub fn of_rank(job: &Job, rank: usize, failure: Failure) -> Failure {
    let log = job.log_of_rank(rank);
    Failure { message: format!("rank {rank}: {}", failure.message), tail: tail(&log), log: Some(log), ..failure }
}

/// Rank 0: asks this process to stop when another rank was stopped, and calls `failed` when one has
/// failed.
///
/// # Errors
/// When there are too many threads.
pub fn watch(job: Job, stop: Arc<AtomicBool>, failed: impl Fn(Failure) + Send + 'static) -> Result<()> {
    let look = move || {
        loop {
            std::thread::sleep(WATCH);
            if let Some(failure) = failure(&job) {
                return failed(failure);
            }
            if ends_now(&job).iter().any(|end| matches!(end.end, AttemptEnd::Suspended)) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    limits::spawn("ranks", look).map(drop).map_err(|e| Error::stage("cannot start a thread").caused(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_build_is_told_with_both_paths() {
        let program = |version: &str, size| Program {
            version: version.into(),
            size,
            path: format!("/{version}/erw").into(),
            host: "n1".into(),
        };
        same_program(&program("1.0", 7), &program("1.0", 7), 2).unwrap();
        assert!(same_program(&program("1.0", 7), &program("1.0", 8), 2).is_err());
        let error = same_program(&program("1.0", 7), &program("1.1", 7), 2).unwrap_err();
        assert_eq!(error.message, "rank 2 runs another build of erw than rank 0");
        let told =
            ["rank 0: version 1.0 at `/1.0/erw` on n1, 7 bytes", "rank 2: version 1.1 at `/1.1/erw` on n1, 7 bytes"];
        assert_eq!(error.causes, told);
    }
}
