//! The main function of a worker process: `erw worker JOB.json` runs one attempt, reports events on
//! standard output, and writes a report as its last act. Knows the job file and the store, not the
//! pipeline or graph.
//!
//! Exits at once when its standard input closes, because then the runner is gone, however it died:
//! nobody would use the result, and a new runner must get the key's lock (inherited here).

use super::attempt_report::{AttemptEnd, AttemptReport, Machine};
use super::environment::Requested;
use super::executor::QUICK;
use super::launch::AttemptSite;
use super::process_exit::MemoryDeaths;
use super::processes::Workers;
use super::tamper::IntegrityCheck;
use super::watchdog::{ATTACHED, WATCHDOG, guard};
use super::worker_program::WorkerProgram;
use super::{artifacts, command, metrics_json, rendezvous};
use crate::cache::store::Store;
use crate::event::Failure;
use crate::files::disk::Durability;
use crate::host;
use crate::kind::attempt::{Attempt, Job, RESULTS};
use crate::kind::manifest::{Manifest, result_fits};
use crate::kind::{Registry, StageKind};
use erw_base::error::{Error, ErrorKind, Result};
use erw_base::{limits, process};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{dup2_stderr, dup2_stdout, getpgrp, getpid};
use std::any::Any;
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The exit status of a worker that suspended its work.
pub const SUSPENDED: i32 = 3;
/// The exit status of a worker that found another one at work.
pub const TAKEN: i32 = 4;
/// How often a request to stop is looked for while a program runs.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Runs the job in the file and returns the exit status: 0 done, 1 failed, 3 suspended. With
/// [`WATCHDOG`] instead of a job, runs the watchdog.
pub fn serve(job_file: &Path, registry: Registry) -> Result<i32> {
    if job_file == Path::new(WATCHDOG) {
        guard(std::io::stdin().lock());
        return Ok(0);
    }
    let stop = Arc::new(AtomicBool::new(false));
    // The last is what `mpirun` passes on: of the others it ends the ranks itself.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Error::stage("cannot listen for signals").caused(e))?;
    }
    let text = std::fs::read(job_file).map_err(|e| Error::io("read", job_file, e))?;
    let job: Job = serde_json::from_slice(&text).map_err(|e| Error::io("parse", job_file, e.into()))?;
    let rank = job.numbering.rank(job.ranks)?;
    let _ = JOB.set((job.clone(), rank));
    if job.detached && is_done(&job) {
        return Ok(0);
    }
    if rank > 0 {
        return follow(job, rank, registry, stop);
    }
    let began = Instant::now();
    let alone = if job.detached { Alone::wait(&job, &stop)? } else { None };
    if job.detached && alone.is_none() {
        return Ok(TAKEN);
    }
    let attempt = Attempt::new(job, events(alone.as_ref())?, Arc::clone(&stop));
    let report = match &alone {
        Some(alone) if attempt.job().command.is_some() => program(&attempt, alone, &stop),
        _ => report(&attempt, registry, &stop),
    };
    let quick = alone.is_none() && began.elapsed() < QUICK;
    let durability = if quick { Durability::Later } else { Durability::Now };
    report.write(attempt.job(), durability)?;
    Ok(match report.end {
        AttemptEnd::Done => 0,
        AttemptEnd::Suspended => SUSPENDED,
        _ => 1,
    })
}

/// Whether an earlier start of the same job came to its end. A scheduler starts a job again whose
/// preemption began while it did.
fn is_done(job: &Job) -> bool {
    matches!(AttemptReport::read(job), Ok(Some(AttemptReport { end: AttemptEnd::Done, .. })))
}

/// What a worker holds that outlives its runner. No other one works at the same key meanwhile: a
/// controller that forgot a start, or a node that was not as dead as believed, would cause a second.
struct Alone {
    lock: File,
    events: File,
    /// Keeps gc away.
    store: Store,
}

impl Alone {
    /// Waits for the lock, at most for the lease of a file server (NFSv4: 90 s). `None`: another
    /// worker has it, or this one is to stop.
    fn wait(job: &Job, stop: &AtomicBool) -> Result<Option<Self>> {
        const LEASE: Duration = Duration::from_secs(90);
        const TICK: Duration = Duration::from_millis(500);
        let store = Store::open(&job.cache)?;
        let path = lock_file(job);
        let open = |path: &Path, what: &str| {
            let file = File::options().read(true).append(true).create(true).open(path);
            file.map_err(|e| Error::io(what, path, e))
        };
        let lock = open(&path, "open the lock")?;
        let began = Instant::now();
        while let Err(e) = lock.try_lock() {
            if let TryLockError::Error(e) = e {
                return Err(Error::io("lock", &path, e));
            }
            if began.elapsed() > LEASE || stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            std::thread::sleep(TICK);
        }
        // Of an earlier start of the same job.
        let end = job.end_file();
        match std::fs::remove_file(&end) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &end, e)),
            _ => {}
        }
        // An earlier start of the same job may have left outputs.
        artifacts::make_room(job)?;
        Ok(Some(Self { lock, events: open(&job.events_file(), "write")?, store }))
    }
}

/// Held by the worker of a key while it works.
fn lock_file(job: &Job) -> PathBuf {
    job.cache.join("v1/locks").join(format!("{}.worker", job.key))
}

/// Whether a detached worker works at this key, on whatever node.
pub fn is_at_work(job: &Job) -> bool {
    let lock = File::options().read(true).append(true).open(lock_file(job));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Where events go: to the runner, or to a file that it reads.
fn events(alone: Option<&Alone>) -> Result<Box<dyn Write + Send>> {
    let Some(alone) = alone else { return Ok(Box::new(std::io::stdout())) };
    let events = alone.events.try_clone().map_err(|e| Error::stage("cannot write events").caused(e))?;
    Ok(Box::new(events))
}

/// An attempt at a stage that is a program.
fn program(attempt: &Attempt, alone: &Alone, stop: &Arc<AtomicBool>) -> AttemptReport {
    let job = attempt.job();
    let workers = Workers::stopped_by(Arc::clone(stop));
    let (deaths, integrity) = (MemoryDeaths::default(), IntegrityCheck::default());
    let site = AttemptSite {
        store: &alone.store,
        integrity: &integrity,
        workers: &workers,
        deaths: &deaths,
        ticket: 0,
        mem: 0,
        lock: &alone.lock,
        // Set for this process already.
        gpus: &[],
        stated: Requested { threads: false, gpus: false },
    };
    let over = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        let forward = || {
            while !over.load(Ordering::Relaxed) {
                if stop.load(Ordering::Relaxed) {
                    return workers.stop();
                }
                std::thread::sleep(STOP_INTERVAL);
            }
        };
        let forwarding = limits::spawn_scoped(scope, "stop", forward);
        let forwarding = forwarding.map_err(|e| Error::stage("cannot start a thread").caused(e));
        let ran = forwarding.and_then(|_| {
            let worker = WorkerProgram::this()?;
            command::attempt(&site, &worker, job, &mut |event| attempt.say(&event))
        });
        over.store(true, Ordering::Relaxed);
        ran
    });
    ran.unwrap_or_else(|e| AttemptReport::of(AttemptEnd::Rejected(e.into()), Machine::default()))
}

/// The job of this process, and its rank.
static JOB: OnceLock<(Job, usize)> = OnceLock::new();

/// Reports a failure in place of the attempt, which cannot go on; the caller ends the process.
pub fn fail(error: Error) {
    fail_with(error.into());
}

fn fail_with(failure: Failure) {
    let _ = match JOB.get() {
        Some((job, 0)) => {
            AttemptReport::of(AttemptEnd::Failed(failure), Machine::default()).write(job, Durability::Now)
        }
        Some((job, rank)) => rendezvous::end(job, *rank, AttemptEnd::Failed(failure)),
        None => Ok(()),
    };
}

/// Another rank than the first: shares the work, and says nothing but how it ended, if that is not
/// well. A rank that was stopped leaves with 0: a scheduler ends all ranks when one leaves with
/// another status, but the first one may still be saving its work.
fn follow(job: Job, rank: usize, registry: Registry, stop: Arc<AtomicBool>) -> Result<i32> {
    let log = job.log_of_rank(rank);
    let file = File::options().create(true).append(true).open(&log).map_err(|e| Error::io("write", &log, e))?;
    let redirected = dup2_stdout(&file).and_then(|()| dup2_stderr(&file));
    redirected.map_err(|e| Error::io("write", &log, e.into()))?;
    let attempt = Attempt::new(job, Box::new(std::io::sink()), Arc::clone(&stop)).as_rank(rank);
    let share = || {
        end_with_runner()?;
        process::build_pool(true)?;
        attempt.log(&format!("rank {rank} of {} on {}", attempt.ranks(), host::host()));
        rendezvous::join(attempt.job(), rank, &stop)?;
        (kind(attempt.job(), registry)?.run)(&attempt)
    };
    let shared = catch_unwind(AssertUnwindSafe(share)).unwrap_or_else(|payload| Err(panicked(payload.as_ref())));
    let (end, status) = match shared {
        Ok(()) => return Ok(0),
        Err(e) if e.kind == ErrorKind::Suspended => (AttemptEnd::Suspended, 0),
        Err(e) => (AttemptEnd::Failed(e.into()), 1),
    };
    rendezvous::end(attempt.job(), rank, end)?;
    Ok(status)
}

/// Executes the attempt.
fn report(attempt: &Attempt, registry: Registry, stop: &Arc<AtomicBool>) -> AttemptReport {
    let machine = match Machine::of(attempt.job()) {
        Ok(machine) => machine,
        Err(e) => return AttemptReport::of(AttemptEnd::Failed(e.into()), Machine::default()),
    };
    let ran = catch_unwind(AssertUnwindSafe(|| run(attempt, registry, stop)));
    let mut report = AttemptReport::of(AttemptEnd::Done, machine);
    (report.shown, report.resumed) = (attempt.shown(), attempt.resumed_at());
    match ran.unwrap_or_else(|payload| Err(panicked(payload.as_ref()))) {
        Ok(damaged) if !damaged.is_empty() => report.end = AttemptEnd::Damaged(damaged),
        Ok(_) => {
            if let Err(e) = finish(attempt, &mut report) {
                report.end = AttemptEnd::Rejected(e.into());
            }
        }
        Err(e) if e.kind == ErrorKind::Suspended => report.end = AttemptEnd::Suspended,
        Err(e) => report.end = AttemptEnd::Failed(e.into()),
    }
    if attempt.ranks() > 1 {
        let job = attempt.job();
        report.machine.earlier = host::others(&job.work_dir, &Machine::name_of(job));
        // It ended this rank too, or the scheduler did because of it.
        if let (AttemptEnd::Suspended | AttemptEnd::Failed(_), Some(failure)) = (&report.end, rendezvous::failure(job))
        {
            report.end = AttemptEnd::Failed(failure);
        }
    }
    report
}

/// Reads what the attempt has made.
fn finish(attempt: &Attempt, report: &mut AttemptReport) -> Result<()> {
    let results = attempt.job().work_dir.join(RESULTS);
    report.results = metrics_json::of_file(&results).map_err(|e| Error::io("read", &results, e))?.results;
    report.outputs = artifacts::outputs(attempt.job())?;
    Ok(())
}

/// Verifies the inputs, and runs the kind if they are sound. Returns the slots of those that are
/// not.
fn run(attempt: &Attempt, registry: Registry, stop: &Arc<AtomicBool>) -> Result<Vec<String>> {
    end_with_runner()?;
    process::build_pool(true)?;
    attempt.started();
    let job = attempt.job();
    let kind = kind(job, registry)?;
    if !job.unverified.is_empty() {
        let damaged = artifacts::damaged(&Store::open(&job.cache)?, &IntegrityCheck::default(), job);
        if !damaged.is_empty() {
            return Ok(damaged);
        }
    }
    if attempt.ranks() > 1 {
        rendezvous::begin(job)?;
        rendezvous::watch(job.clone(), Arc::clone(stop), |failure| {
            fail_with(failure);
            std::process::exit(1);
        })?;
    }
    (kind.run)(attempt)?;
    debug_assert_eq!(unlisted_results(kind, attempt), Vec::<String>::new(), "results that the manifest does not list");
    attempt.write_results()?;
    Ok(vec![])
}

fn kind(job: &Job, registry: Registry) -> Result<&'static StageKind> {
    let kind = registry.iter().find(|kind| kind.name == job.kind);
    kind.ok_or_else(|| Error::usage(format!("this program has no stage kind `{}`", job.kind)))
}

/// Results that the manifest of the kind does not list: `erw sweep --sort` would refuse their names
/// until the stage has run once.
fn unlisted_results(kind: &StageKind, attempt: &Attempt) -> Vec<String> {
    let Ok(manifest) = Manifest::parse(kind.name, kind.manifest) else { return vec![] };
    let is_listed = |name: &String| manifest.results.iter().any(|pattern| result_fits(pattern, name));
    attempt.result_names().into_iter().filter(|name| !is_listed(name)).collect()
}

/// The location is in the log: the panic hook wrote it there.
fn panicked(payload: &(dyn Any + Send)) -> Error {
    let words = payload.downcast_ref::<&str>().map(ToString::to_string);
    let words = words.or_else(|| payload.downcast_ref::<String>().cloned());
    Error::stage(format!("the stage panicked: {}", words.unwrap_or_else(|| "no message".into())))
}

/// Ends this process with its runner, if it has one.
fn end_with_runner() -> Result<()> {
    if std::env::var_os(ATTACHED).is_none() {
        return Ok(());
    }
    let watch = limits::spawn("runner-watch", watch_runner);
    watch.map(drop).map_err(|e| Error::stage("cannot start a thread").caused(e))
}

fn watch_runner() {
    let mut byte = [0];
    // Nothing is ever written to it: whatever `read` returns, the other end is closed.
    while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
    if getpgrp() == getpid() {
        let _ = killpg(getpgrp(), Signal::SIGKILL);
    }
    std::process::exit(1);
}
