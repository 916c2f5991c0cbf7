//! Executes attempts on this machine: a kind in a worker process, a command as a program that this
//! process starts itself, because a worker in between would only wait, and cost more than a short
//! program takes.
//!
//! A worker leads its own process group, so that Ctrl-C on the terminal reaches only the runner,
//! and so that everything the worker started can be ended with it. It inherits the open lock of its
//! key: while any process of the group lives, no other run can start the same action. It ends with
//! the runner, so there is never an earlier attempt to attend.
//!
//! Does not know the graph or keys.

use super::{AttemptSite, Launcher, open_log, with_tail};
use crate::event::WorkerEvent;
use crate::exec::attempt_report::{AttemptEnd, AttemptReport, Machine};
use crate::exec::command;
use crate::exec::processes::Process;
use crate::exec::spawn::{self, Pause};
use crate::exec::watchdog::ATTACHED;
use crate::exec::worker_program::WorkerProgram;
use crate::files::disk::{Durability, write_json};
use crate::kind::attempt::Job;
use erw_base::error::{Error, Result};
use erw_base::process::FOR_WORKERS;
use erw_fetch::registry;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Executes attempts on this machine.
#[derive(Debug, Clone)]
pub struct Local {
    pub worker: WorkerProgram,
}

impl Launcher for Local {
    fn find(&self, _: &Path) -> Result<Option<u32>> {
        Ok(None)
    }

    fn run(&self, site: &AttemptSite<'_>, mut job: Job, tell: &mut dyn FnMut(WorkerEvent)) -> Result<AttemptReport> {
        if job.command.is_some() {
            job.unverified = job.inputs.keys().cloned().collect();
            return command::attempt(site, &self.worker, &job, tell);
        }
        let unverified = site.integrity.unverified(site.store, job.inputs.values().map(|p| p.as_path()));
        job.unverified = job.inputs.iter().filter(|(_, p)| unverified.holds(p)).map(|(slot, _)| slot.clone()).collect();
        let report = self.work(site, &job, tell)?;
        // Any other may have ended before it had read them.
        if matches!(report.end, AttemptEnd::Done) {
            site.integrity.verified(unverified);
        }
        Ok(report)
    }
}

impl Local {
    /// Runs the job in a worker and reads its events until it ends.
    fn work(&self, site: &AttemptSite<'_>, job: &Job, tell: &mut dyn FnMut(WorkerEvent)) -> Result<AttemptReport> {
        let file = job.file();
        write_json(&file, job, Durability::Later)?;
        let mut log = open_log(job)?;
        let to_log = log.try_clone().map_err(|e| Error::stage("cannot use the log").because(e))?;
        let mut command = Command::new(&self.worker.program);
        command
            .args(&self.worker.args)
            .arg(file)
            .env(ATTACHED, "1")
            // A worker reads no settings.
            .envs(registry::used_file().map(|path| (registry::EXTRA, path)))
            .envs(FOR_WORKERS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(to_log);
        let started = start(site, &mut command, job);
        let mut child = started.map_err(|e| Error::stage("cannot start a worker").caused(e))?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n').map_while(|l| l.ok()) {
                let text = String::from_utf8_lossy(&line);
                // Anything else a library prints is not an event, but may be worth reading.
                let event = serde_json::from_str(&text).unwrap_or_else(|_| WorkerEvent::Log { text: text.into() });
                // Logged too, so that a reader needs one file, not a log and a journal.
                if let WorkerEvent::Log { text } = &event {
                    let _ = writeln!(log, "{text}");
                }
                tell(event);
            }
        }
        let ended = site.wait(child.id() as i32)?;
        let Some(report) = AttemptReport::read(job)? else {
            let stopped = ended.status.signal() == Some(Signal::SIGTERM as i32);
            let end = match site.workers.is_stopping(site.ticket) && stopped {
                // Asked to stop before it listened for signals: nothing was begun.
                true => AttemptEnd::Suspended,
                false => AttemptEnd::Failed(site.failure(job, "the worker", ended)),
            };
            return Ok(AttemptReport { peak: ended.peak, ..AttemptReport::of(end, Machine::default()) });
        };
        let end = match report.end {
            AttemptEnd::Failed(failure) => AttemptEnd::Failed(with_tail(job, failure)),
            AttemptEnd::Done if !ended.status.success() => AttemptEnd::Failed(site.failure(job, "the worker", ended)),
            other => other,
        };
        Ok(AttemptReport { end, peak: ended.peak, ..report })
    }
}

/// Starts a worker as leader of a group that holds the lock, with the attempt's allocation in its
/// environment.
fn start(site: &AttemptSite<'_>, command: &mut Command, job: &Job) -> io::Result<Child> {
    command.envs(site.environment(job)).process_group(0);
    let inherit = |flag| fcntl(site.lock, FcntlArg::F_SETFD(flag)).map(drop).map_err(io::Error::from);
    let mut child = None;
    let pid = spawn::start(Pause::Stops, || {
        inherit(FdFlag::empty())?;
        let spawned = command.spawn();
        inherit(FdFlag::FD_CLOEXEC)?;
        Ok(child.insert(spawned?).id() as i32)
    })?;
    site.workers.add(site.ticket, Process { pid, mark: None });
    child.ok_or_else(|| io::ErrorKind::Other.into())
}
