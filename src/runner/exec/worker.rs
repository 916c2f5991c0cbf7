//! The inside of a worker process: `erw worker JOB.json` runs one attempt and says so on its standard output.
//! Unaware of pipelines, graph and store; the job file is all it knows.
//!
//! Ends at once when its standard input closes, which is how it learns that the runner is gone, whatever
//! killed that: nobody would take its result, and a new runner must get the key's lock (inherited here).

use super::watchdog::{ATTACHED, WATCHDOG, guard};
use crate::event::WorkerEvent;
use crate::kind::Registry;
use crate::kind::attempt::{Attempt, Job};
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

/// Runs the job in the file and returns the exit status: 0 done, 1 failed, 3 suspended. Instead of a job, the word
/// [`WATCHDOG`] makes this process the one that ends a killed run's programs.
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
    let job: Job = serde_json::from_slice(&text).map_err(|e| Error::io("understand", job_file, e.into()))?;
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
    attempt.write_results()
}

/// Where it happened is in the log: the panic hook has written it there.
fn panicked(payload: &(dyn Any + Send)) -> Error {
    let words = payload.downcast_ref::<&str>().map(ToString::to_string);
    let words = words.or_else(|| payload.downcast_ref::<String>().cloned());
    Error::stage(format!("the stage panicked: {}", words.unwrap_or_else(|| "without words".into())))
}

fn end_with_the_runner() {
    let mut byte = [0];
    // Nothing is ever written to it: whatever read returns, the other end is closed.
    while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
    if getpgrp() == getpid() {
        let _ = killpg(getpgrp(), Signal::SIGKILL);
    }
    std::process::exit(1);
}
