//! Executes attempts on this machine: a kind in a worker process, a command as a program that this
//! process starts itself, because a worker in between would only wait, and cost more than a short
//! program takes.
//!
//! A worker leads its own process group, so that Ctrl-C on the terminal reaches only the runner,
//! and so that everything the worker started can be ended with it. It inherits the open lock of its
//! key: while any process of the group lives, no other run can start the same action. It ends with
//! the runner, so there is never an earlier attempt of this launcher to attend. Several ranks of an
//! attempt are one group, and one that ends badly ends it. Those that exchange gradients over MPI are
//! started by `mpirun`, which stands for all of them.
//!
//! Does not know the graph or keys.

use super::mpirun::{MPIRUN, mpirun};
use super::slurm::placed::Placed;
use super::slurm::unattended;
use super::{AttemptSite, Launcher, open_log, with_tail};
use crate::event::WorkerEvent;
use crate::exec::attempt_report::{AttemptEnd, AttemptReport, Machine};
use crate::exec::command;
use crate::exec::process_exit::{self, ATTEMPT_VAR, Ended, adopt_orphans, end_own_orphans};
use crate::exec::processes::Process;
use crate::exec::rendezvous;
use crate::exec::spawn::{self, Pause};
use crate::exec::watchdog::ATTACHED;
use crate::exec::worker_program::WorkerProgram;
use crate::files::disk::{Durability, write_json};
use crate::kind::attempt::Job;
use crate::kind::ranks::{Numbering, RANK};
use erw_base::error::{Error, Result};
use erw_base::limits;
use erw_base::process::FOR_WORKERS;
use erw_fetch::registry;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Executes attempts on this machine.
#[derive(Debug, Clone)]
pub struct Local {
    pub worker: WorkerProgram,
}

impl Launcher for Local {
    /// What a job of a cluster has done, which a run with another launcher submitted, is taken over.
    fn find(&self, work: &Path) -> Result<Option<u32>> {
        let Some(placed) = Placed::read(work)? else { return Ok(None) };
        if unattended::is_done(work, &placed)? {
            return Ok(Some(placed.attempt));
        }
        let _ = std::fs::remove_file(Placed::file(work));
        Ok(None)
    }

    fn run(&self, site: &AttemptSite<'_>, mut job: Job, tell: &mut dyn FnMut(WorkerEvent)) -> Result<AttemptReport> {
        // Only one that was found has a report.
        if let Some(report) = AttemptReport::read(&job)? {
            return Ok(report);
        }
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
    /// Runs the job in a worker, or in several that share it, and reads the events of the first until
    /// it ends.
    fn work(&self, site: &AttemptSite<'_>, job: &Job, tell: &mut dyn FnMut(WorkerEvent)) -> Result<AttemptReport> {
        write_json(&job.file(), job, Durability::Later)?;
        let mut log = open_log(job)?;
        let started = self.start(site, job, &log);
        let mut ranks = started.map_err(|e| Error::stage("cannot start a worker").caused(e))?;
        let pids: Vec<i32> = ranks.iter().map(|child| child.id() as i32).collect();
        let others = Mutex::new(Others::default());
        let ended = std::thread::scope(|scope| {
            for (rank, pid) in pids.iter().enumerate().skip(1) {
                let attend = {
                    let others = &others;
                    move || others_end(site, others, rank, *pid)
                };
                if let Err(e) = limits::spawn_scoped(scope, "rank", attend) {
                    site.workers.kill_one(site.ticket);
                    pids[rank..].iter().for_each(|pid| drop(process_exit::wait(*pid, || ())));
                    let _ = site.wait(pids[0]);
                    return Err(Error::stage("cannot start a thread").caused(e));
                }
            }
            let stdout = ranks.first_mut().and_then(|first| first.stdout.take());
            let lines = stdout.map(|stdout| BufReader::new(stdout).split(b'\n'));
            for line in lines.into_iter().flatten().map_while(|l| l.ok()) {
                let text = String::from_utf8_lossy(&line);
                // Anything else a library prints is not an event, but may be worth reading.
                let event = serde_json::from_str(&text).unwrap_or_else(|_| WorkerEvent::Log { text: text.into() });
                // Logged too, so that a reader needs one file, not a log and a journal.
                if let WorkerEvent::Log { text } = &event {
                    let _ = writeln!(log, "{text}");
                }
                tell(event);
            }
            // Ends the others, too: of their work nothing is left to wait for.
            let ended = site.wait(pids[0]);
            if by_mpi(job) {
                end_own_orphans(&mark(job));
            }
            ended
        })?;
        judge(site, job, ended, others.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a worker for each rank. The first leads a group, which the others join.
    fn start(&self, site: &AttemptSite<'_>, job: &Job, log: &File) -> io::Result<Vec<Child>> {
        let mut ranks: Vec<Child> = vec![];
        let mark = by_mpi(job).then(|| mark(job));
        if let Some(mark) = &mark {
            adopt_orphans();
            site.workers.expect(mark, &self.worker);
        }
        for rank in 0..if by_mpi(job) { 1 } else { job.ranks.max(1) } {
            let leader = ranks.first().map_or(0, |first| first.id() as i32);
            let started = log.try_clone().and_then(|log| start(site, &mut self.command(site, job, rank, log), leader));
            match started {
                Ok(child) => ranks.push(child),
                Err(e) => {
                    mark.iter().for_each(|mark| site.workers.forget(mark));
                    let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
                    ranks.iter().for_each(|child| drop(process_exit::wait(child.id() as i32, || ())));
                    return Err(e);
                }
            }
        }
        let first = ranks.first().ok_or(io::ErrorKind::Other)?;
        let stop = if by_mpi(job) { Signal::SIGUSR1 } else { Signal::SIGTERM };
        site.workers.add(site.ticket, Process { pid: first.id() as i32, mark, stop });
        Ok(ranks)
    }

    /// The worker of a rank, with the allocation of that rank in its environment; or `mpirun`, which
    /// starts all of them.
    fn command(&self, site: &AttemptSite<'_>, job: &Job, rank: usize, log: File) -> Command {
        let by_mpi = by_mpi(job);
        let mut command = Command::new(if by_mpi { Path::new(MPIRUN) } else { &self.worker.program });
        if by_mpi {
            command.args(mpirun(job.ranks)).arg(&self.worker.program).env(ATTEMPT_VAR, mark(job));
        }
        command
            .args(&self.worker.args)
            .arg(job.file())
            .envs((!by_mpi).then_some((ATTACHED, "1")))
            // A worker reads no settings.
            .envs(registry::used_file().map(|path| (registry::EXTRA, path)))
            .envs(FOR_WORKERS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()))
            .envs((job.ranks > 1 && !by_mpi).then(|| (RANK, rank.to_string())))
            .envs(site.environment(job, rank))
            .stdin(if by_mpi { Stdio::null() } else { Stdio::piped() })
            .stdout(if rank == 0 { Stdio::piped() } else { Stdio::null() })
            .stderr(log);
        command
    }
}

fn by_mpi(job: &Job) -> bool {
    job.numbering == Numbering::Mpi
}

/// By which ranks that `mpirun` has started are found, as the orphans of a program are.
fn mark(job: &Job) -> String {
    format!("{}.{}", job.key, std::process::id())
}

/// Starts a worker in the group of this leader, or as leader of its own (0). It holds the lock.
fn start(site: &AttemptSite<'_>, command: &mut Command, leader: i32) -> io::Result<Child> {
    command.process_group(leader);
    let inherit = |flag| fcntl(site.lock, FcntlArg::F_SETFD(flag)).map(drop).map_err(io::Error::from);
    let mut child = None;
    spawn::start(Pause::Stops, || {
        inherit(FdFlag::empty())?;
        let spawned = command.spawn();
        inherit(FdFlag::FD_CLOEXEC)?;
        Ok(child.insert(spawned?).id() as i32)
    })?;
    child.ok_or_else(|| io::ErrorKind::Other.into())
}

/// What became of the other ranks than the first.
#[derive(Default)]
struct Others {
    /// The first one that ended badly.
    lost: Option<(usize, Ended)>,
    peak: u64,
}

/// Waits for another rank to end. One that ends badly ends all.
fn others_end(site: &AttemptSite<'_>, others: &Mutex<Others>, rank: usize, pid: i32) {
    let ended = process_exit::wait(pid, || ());
    let mut others = others.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(ended) = ended else { return };
    others.peak = others.peak.max(ended.peak);
    if !ended.status.success() && others.lost.is_none() {
        others.lost = Some((rank, ended));
        drop(others);
        site.workers.kill_one(site.ticket);
    }
}

/// The report of an attempt whose first rank has ended.
fn judge(site: &AttemptSite<'_>, job: &Job, first: Ended, others: Others) -> Result<AttemptReport> {
    let peak = first.peak.max(others.peak);
    let Some(report) = AttemptReport::read(job)? else {
        let was_told = |ended: &Ended| match (ended.status.signal(), ended.status.code()) {
            (Some(signal), _) => signal == Signal::SIGTERM as i32 || signal == Signal::SIGUSR1 as i32,
            // As `mpirun` tells of a rank.
            (None, code) => code == Some(128 + Signal::SIGUSR1 as i32),
        };
        let stopped = was_told(&first) || others.lost.is_some_and(|(_, ended)| was_told(&ended));
        let end = match (rendezvous::failure(job), others.lost) {
            // Asked to stop before it listened for signals: nothing was begun.
            _ if site.workers.is_stopping(site.ticket) && stopped => AttemptEnd::Suspended,
            (Some(failure), _) => AttemptEnd::Failed(failure),
            (None, Some((rank, ended))) => {
                AttemptEnd::Failed(rendezvous::of_rank(job, rank, site.failure(job, "the worker", ended)))
            }
            (None, None) => AttemptEnd::Failed(site.failure(job, "the worker", first)),
        };
        return Ok(AttemptReport { peak, ..AttemptReport::of(end, Machine::default()) });
    };
    let end = match report.end {
        AttemptEnd::Failed(failure) => AttemptEnd::Failed(with_tail(job, failure)),
        AttemptEnd::Done if !first.status.success() => AttemptEnd::Failed(site.failure(job, "the worker", first)),
        other => other,
    };
    Ok(AttemptReport { end, peak, ..report })
}
