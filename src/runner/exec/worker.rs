//! The main function of a worker process: `erw worker JOB.json` runs one attempt and reports events
//! on standard output. Knows only the job file, not the pipeline, graph or store.
//!
//! Exits at once when its standard input closes, because then the runner is gone, however it died:
//! nobody would use the result, and a new runner must get the key's lock (inherited here).

use super::watchdog::{ATTACHED, WATCHDOG, guard};
use crate::event::WorkerEvent;
use crate::kind::attempt::{Attempt, Job};
use crate::kind::manifest::{Manifest, result_fits};
use crate::kind::{Registry, StageKind};
use erw_base::error::{Error, ErrorKind, Result};
use erw_base::{limits, process};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{getpgrp, getpid};
use std::any::Any;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Runs the job in the file and returns the exit status: 0 done, 1 failed, 3 suspended. With
/// [`WATCHDOG`] instead of a job, runs the watchdog.
pub fn serve(job_file: &Path, registry: Registry) -> Result<i32> {
    if job_file == Path::new(WATCHDOG) {
        guard(std::io::stdin().lock());
        return Ok(0);
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGTERM, libc::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Error::stage("cannot listen for signals").caused(e))?;
    }
    let text = std::fs::read(job_file).map_err(|e| Error::io("read", job_file, e))?;
    let job: Job = serde_json::from_slice(&text).map_err(|e| Error::io("parse", job_file, e.into()))?;
    let attempt = Attempt::new(job, Box::new(std::io::stdout()), stop);
    let ran = catch_unwind(AssertUnwindSafe(|| run(&attempt, registry)));
    let (last, status) = match ran.unwrap_or_else(|payload| Err(panicked(payload.as_ref()))) {
        Ok(()) => (WorkerEvent::Done, 0),
        Err(e) if e.kind == ErrorKind::Suspended => (WorkerEvent::Suspended, 3),
        Err(e) => (WorkerEvent::Failed { message: e.message, causes: e.causes, hints: e.hints }, 1),
    };
    attempt.say(&last);
    Ok(status)
}

fn run(attempt: &Attempt, registry: Registry) -> Result<()> {
    if std::env::var_os(ATTACHED).is_some() {
        let watch = limits::spawn("runner-watch", end_with_the_runner);
        watch.map_err(|e| Error::stage("cannot start a thread").caused(e))?;
    }
    process::build_pool(true)?;
    let job = attempt.job();
    let kind = registry.iter().find(|k| k.name == job.kind);
    let kind = kind.ok_or_else(|| Error::usage(format!("this program has no stage kind `{}`", job.kind)))?;
    (kind.run)(attempt)?;
    debug_assert_eq!(unlisted_results(kind, attempt), Vec::<String>::new(), "results that the manifest does not list");
    attempt.write_results()
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

fn end_with_the_runner() {
    let mut byte = [0];
    // Nothing is ever written to it: whatever `read` returns, the other end is closed.
    while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
    if getpgrp() == getpid() {
        let _ = killpg(getpgrp(), Signal::SIGKILL);
    }
    std::process::exit(1);
}
