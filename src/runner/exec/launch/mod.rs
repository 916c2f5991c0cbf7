//! Where attempts are executed: by processes of this machine ([`local`]) or jobs of a cluster
//! ([`slurm`]). Another way to start workers is another [`Launcher`]. The scheduler, keys, store and
//! records do not know which one a run has.
//!
//! A launcher executes a job to its end and returns the report that was written there. It does not
//! know the graph or keys, and believes no exit status (see [`super::attempt_report`]).

pub mod local;
mod mpirun;
pub mod slurm;

use super::attempt_report::AttemptReport;
use super::environment::{self, Requested};
use super::process_exit::{self, Ended, MemoryDeaths, describe};
use super::processes::Workers;
use super::resources::Limits;
use super::tamper::IntegrityCheck;
use crate::cache::store::Store;
use crate::event::{Failure, WorkerEvent};
use crate::kind::attempt::Job;
use crate::pipeline::graph::{Resources, Stage};
use crate::text::log_lines::tail;
use erw_base::error::{Error, Result};
use erw_base::limits;
use std::fs::File;
use std::path::Path;

/// Executes attempts.
pub trait Launcher: Sync {
    /// Refuses now what would be refused later, possibly after days of work: stages, and what they
    /// request.
    ///
    /// # Errors
    /// A stage that this launcher can never start.
    fn check(&self, _: &[(&Stage, &Resources)], _: &Limits) -> Result<()> {
        Ok(())
    }

    /// The attempt of this work folder that an earlier run started and that is still to be
    /// attended: it runs, or has ended and nobody has looked. `None`: the next one can be started.
    ///
    /// # Errors
    /// When that cannot be told.
    fn find(&self, work: &Path) -> Result<Option<u32>>;

    /// Executes a job, or attends the one that [`find`](Self::find) found, until it has ended.
    ///
    /// # Errors
    /// When it could not be started.
    fn run(&self, site: &AttemptSite<'_>, job: Job, tell: &mut dyn FnMut(WorkerEvent)) -> Result<AttemptReport>;
}

/// The context of an attempt: its lock and allocation, and the store.
#[derive(Clone, Copy)]
pub struct AttemptSite<'a> {
    pub store: &'a Store,
    pub integrity: &'a IntegrityCheck,
    pub workers: &'a Workers,
    pub deaths: &'a MemoryDeaths,
    /// Its number in `workers`.
    pub ticket: usize,
    /// Held by the processes of the attempt.
    pub lock: &'a File,
    /// Bytes of memory allocated to each of its ranks; 0: it states none.
    pub mem: u64,
    /// Ids of the GPUs allocated to it; of several ranks, each has one.
    pub gpus: &'a [String],
    /// What its stage requests explicitly.
    pub stated: Requested,
}

impl AttemptSite<'_> {
    /// Variables set for a rank of the attempt on top of this process's environment.
    pub(crate) fn environment(&self, job: &Job, rank: usize) -> Vec<(&'static str, String)> {
        let given = Requested { threads: self.stated.threads, gpus: self.stated.gpus };
        let user = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let own = self.gpus.get(rank..=rank).filter(|_| job.ranks > 1).unwrap_or(self.gpus);
        let settings = environment::settings(given, job.threads, own, &user);
        settings.into_iter().filter_map(|s| Some((s.name, s.value?))).collect()
    }

    /// Waits for a process of the attempt to end.
    pub(crate) fn wait(&self, pid: i32) -> Result<Ended> {
        process_exit::wait(pid, || self.workers.remove(self.ticket))
    }

    /// The failure of a process called `who` that ended this way.
    pub(crate) fn failure(&self, job: &Job, who: &str, ended: Ended) -> Failure {
        let failure = with_tail(job, Failure::default());
        let hints = disk_is_full(&job.work_dir).into_iter().chain(limits::hint_of_words(&failure.tail)).collect();
        let failure = Failure { hints, ..failure };
        if !self.deaths.explain(ended.status) {
            return Failure { message: format!("{who} {}", describe(ended.status)), ..failure };
        }
        let hint = "declare its memory, as in `resources = { mem = \"8GiB\" }`, so that less runs beside it";
        let message = format!("{who} was killed by the kernel: out of memory");
        let peak = format!("its peak memory was {:.1} MiB", ended.peak as f64 / f64::from(1 << 20));
        Failure { message, causes: vec![peak], hints: vec![hint.into()], ..failure }
    }
}

/// The log of an attempt, to be written to.
pub(crate) fn open_log(job: &Job) -> Result<File> {
    let log = job.log_file();
    let file = File::options().create(true).append(true).open(&log);
    file.map_err(|e| Error::io("write", &log, e))
}

/// Adds the end of the log.
pub(crate) fn with_tail(job: &Job, failure: Failure) -> Failure {
    // That of another rank has its own.
    if failure.log.is_some() {
        return failure;
    }
    let log = job.log_file();
    Failure { tail: tail(&log), log: Some(log), ..failure }
}

/// Added to the failure of a process: a full disk may have cut its log short.
fn disk_is_full(folder: &Path) -> Option<String> {
    const LITTLE: u64 = 1 << 20;
    let disk = nix::sys::statvfs::statvfs(folder).ok()?;
    let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
    (free < LITTLE).then(|| format!("the disk of the cache is full: {free} bytes are left"))
}
