//! What a run has going: the processes of its stages, so that a stop reaches one or all of them, and a guardian that
//! ends them if the runner is killed.
//!
//! A worker ends by itself when its runner is gone, because it watches its standard input. A program does not, so its
//! mark and its process group are told to the guardian: a small process (this program, `erw worker guardian`) that reads
//! from a pipe what is under way and kills what is left of it when the pipe closes, whatever closed it. The mark is told
//! before the program is started: what a kill of the runner leaves running has not been executed yet, a matter of
//! microseconds. It holds the lock of its key, so that nothing worse follows than a wait.

use super::launcher::Launcher;
use super::watchdog::Watchdog;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The processes of a run, by a number of the caller's.
#[derive(Debug, Default)]
pub struct Workers(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    processes: BTreeMap<usize, Process>,
    stopping: bool,
    /// Those asked to stop alone.
    stopped: BTreeSet<usize>,
    guardian: Option<Watchdog>,
}

/// The leader of a process group.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    /// Of a program: the mark by which its strays are known ([`super::process_exit::ATTEMPT_VAR`]). It is asked to stop together with
    /// its children; a worker, which has none, knows what to do with its own.
    pub mark: Option<String>,
}

impl Process {
    fn ask_to_stop(&self) {
        let pid = Pid::from_raw(self.pid);
        let _ = if self.mark.is_some() { killpg(pid, Signal::SIGTERM) } else { kill(pid, Signal::SIGTERM) };
    }
    fn end(&self) {
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

impl Workers {
    fn going(&self) -> MutexGuard<'_, Going> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Asks every process, and every later one, to put its work down.
    pub fn stop(&self) {
        let mut going = self.going();
        going.stopping = true;
        going.processes.values().for_each(|p| p.ask_to_stop());
    }
    /// Was this one asked to stop, alone or with all?
    pub fn is_stopping(&self, ticket: usize) -> bool {
        let going = self.going();
        going.stopping || going.stopped.contains(&ticket)
    }
    /// Ends every process and what it started, now.
    pub fn kill(&self) {
        self.going().processes.values().for_each(|p| p.end());
    }
    pub fn stop_one(&self, ticket: usize) {
        let mut going = self.going();
        if going.processes.contains_key(&ticket) {
            going.stopped.insert(ticket);
            going.processes.get(&ticket).iter().for_each(|p| p.ask_to_stop());
        }
    }
    pub fn kill_one(&self, ticket: usize) {
        self.going().processes.get(&ticket).iter().for_each(|p| p.end());
    }
    /// A program with this mark is about to be started.
    pub(crate) fn expect(&self, mark: &str, launcher: &Launcher) {
        self.going().guardian.get_or_insert_with(|| Watchdog::start(launcher)).tell(&format!("+{mark}"));
    }
    /// It was not started.
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
    /// Called while the process is a zombie: its number cannot have gone to another yet. What is left of its group ends.
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
        if let Some(guardian) = &mut self.guardian {
            guardian.tell(word);
        }
    }
}
