//! The running processes of a run, so that a stop reaches one or all of them, and a watchdog that
//! ends them if the runner is killed.
//!
//! A worker ends by itself when its runner is gone, because it watches its standard input. A
//! program does not, so its mark and its process group are sent to the watchdog: a small process
//! (this program, run as `erw worker watchdog`) that reads a list of running programs from a pipe
//! and kills what is left of them when the pipe closes, however it was closed. The mark is sent
//! before the program starts: if the runner is killed in between, what survives has not executed
//! anything yet (a matter of microseconds). It holds the lock of its key, so the worst consequence
//! is a wait. Does not know stages.

use super::watchdog::Watchdog;
use super::worker_program::WorkerProgram;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The processes of a run, by a number that the caller chooses.
#[derive(Debug, Default)]
pub struct Workers(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    processes: BTreeMap<usize, Process>,
    /// Attempts without a process of this machine, whose launchers look at what is asked of them.
    jobs: BTreeSet<usize>,
    stopping: bool,
    killing: bool,
    leaving: bool,
    /// Set by a signal handler: as good as `stopping`.
    signalled: Option<Arc<AtomicBool>>,
    /// Those asked to stop, and to be killed, individually.
    stopped: BTreeSet<usize>,
    killed: BTreeSet<usize>,
    watchdog: Option<Watchdog>,
}

/// The leader of a process group: a program with its children, a worker with the other ranks of its
/// attempt.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    /// For a program and `mpirun`: the mark that identifies its orphans ([`super::process_exit::ATTEMPT_VAR`]).
    pub mark: Option<String>,
    /// What asks it to stop.
    pub stop: Signal,
}

impl Process {
    fn ask_to_stop(&self) {
        let _ = killpg(Pid::from_raw(self.pid), self.stop);
    }
    fn end(&self) {
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

impl Workers {
    fn going(&self) -> MutexGuard<'_, Going> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Those of a process that is itself asked to stop by setting this.
    pub fn stopped_by(signalled: Arc<AtomicBool>) -> Self {
        Self(Mutex::new(Going { signalled: Some(signalled), ..Going::default() }))
    }
    /// Asks every running and every later process to suspend its work.
    pub fn stop(&self) {
        let mut going = self.going();
        going.stopping = true;
        going.processes.values().for_each(|p| p.ask_to_stop());
    }
    /// Like [`stop`](Self::stop), but what does not need this process goes on.
    pub fn leave(&self) {
        self.going().leaving = true;
        self.stop();
    }
    /// Whether jobs are to be left alone, because this process ends.
    pub fn is_leaving(&self) -> bool {
        self.going().leaving
    }
    /// Whether this one is to be killed, alone or with all.
    pub fn is_killed(&self, ticket: usize) -> bool {
        let going = self.going();
        going.killing || going.killed.contains(&ticket)
    }
    /// Adds an attempt without a process of this machine.
    pub(crate) fn add_job(&self, ticket: usize) {
        let mut going = self.going();
        going.stopped.remove(&ticket);
        going.killed.remove(&ticket);
        going.jobs.insert(ticket);
    }
    pub(crate) fn remove_job(&self, ticket: usize) {
        self.going().jobs.remove(&ticket);
    }
    /// Whether this one was asked to stop, alone or with all.
    pub fn is_stopping(&self, ticket: usize) -> bool {
        let going = self.going();
        let signalled = going.signalled.as_ref().is_some_and(|signalled| signalled.load(Ordering::Relaxed));
        going.stopping || signalled || going.stopped.contains(&ticket)
    }
    /// Kills every process and everything it started.
    pub fn kill(&self) {
        let mut going = self.going();
        going.killing = true;
        going.processes.values().for_each(|p| p.end());
    }
    /// Returns whether there was anything to ask.
    pub fn stop_one(&self, ticket: usize) -> bool {
        let mut going = self.going();
        let is_there = going.processes.contains_key(&ticket) || going.jobs.contains(&ticket);
        if is_there {
            going.stopped.insert(ticket);
            going.processes.get(&ticket).iter().for_each(|p| p.ask_to_stop());
        }
        is_there
    }
    pub fn kill_one(&self, ticket: usize) {
        let mut going = self.going();
        if going.jobs.contains(&ticket) {
            going.killed.insert(ticket);
        }
        going.processes.get(&ticket).iter().for_each(|p| p.end());
    }
    /// Announces a program with this mark before it is started.
    pub(crate) fn expect(&self, mark: &str, worker: &WorkerProgram) {
        self.going().watchdog.get_or_insert_with(|| Watchdog::start(worker)).tell(&format!("+{mark}"));
    }
    /// Withdraws the announcement: the program was not started.
    pub(crate) fn forget(&self, mark: &str) {
        self.going().tell(&format!("-{mark}"));
    }
    pub(crate) fn add(&self, ticket: usize, process: Process) {
        let mut going = self.going();
        going.stopped.remove(&ticket);
        if let Some(mark) = &process.mark {
            going.tell(&format!("={mark} {}", process.pid));
        }
        if going.stopping {
            process.ask_to_stop();
        }
        going.processes.insert(ticket, process);
    }
    /// Call while the process is a zombie, because its pid cannot be reused yet. Ends the rest of
    /// its group.
    pub(crate) fn remove(&self, ticket: usize) {
        let mut going = self.going();
        let Some(process) = going.processes.remove(&ticket) else { return };
        process.end();
        if let Some(mark) = &process.mark {
            going.tell(&format!("-{mark}"));
        }
    }
}

impl Going {
    fn tell(&mut self, word: &str) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.tell(word);
        }
    }
}
