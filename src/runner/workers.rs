//! What a run has going: the processes of its stages, so that a stop reaches one or all of them, and a guardian that
//! ends them if the runner is killed.
//!
//! A worker ends by itself when its runner is gone, because it watches its standard input. A program does not, so its
//! process group is told to the guardian: a small process (this program, `erw worker guardian`) that reads the groups
//! under way from a pipe and kills what is left of them when the pipe closes, whatever closed it. Between the start of
//! a program and the word to the guardian lie microseconds in which a kill of the runner leaves the program running; it
//! holds the lock of its key, so that nothing worse follows than a wait.

use super::ending::end_orphans;
use super::launch::Launcher;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What `erw worker` is told instead of a job to become a guardian.
pub const GUARDIAN: &str = "guardian";

/// The processes of a run, by a number of the caller's.
#[derive(Debug, Default)]
pub struct Workers(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    processes: BTreeMap<usize, Process>,
    stopping: bool,
    /// Those asked to stop alone.
    stopped: BTreeSet<usize>,
    guardian: Option<Guardian>,
}

/// The leader of a process group.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    /// Of a program: the mark by which its strays are known ([`super::ending::MARK`]). It is asked to stop together with
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
    pub(super) fn add(&self, ticket: usize, process: Process, launcher: &Launcher) {
        let mut going = self.going();
        going.stopped.remove(&ticket);
        if let Some(mark) = &process.mark {
            let guardian = going.guardian.get_or_insert_with(|| Guardian::start(launcher));
            guardian.tell(&format!("+{} {mark}", process.pid));
        }
        if going.stopping {
            process.ask_to_stop();
        }
        going.processes.insert(ticket, process);
    }
    /// Called while the process is a zombie: its number cannot have gone to another yet. What is left of its group ends.
    pub(super) fn remove(&self, ticket: usize) {
        let mut going = self.going();
        let Some(process) = going.processes.remove(&ticket) else { return };
        process.end();
        if let Some(guardian) = going.guardian.as_mut().filter(|_| process.mark.is_some()) {
            guardian.tell(&format!("-{}", process.pid));
        }
    }
}

/// The runner's end of the guardian.
#[derive(Debug)]
struct Guardian {
    /// `None`: it could not be started, and a killed runner leaves its programs to themselves.
    process: Option<(Child, ChildStdin)>,
}

impl Guardian {
    fn start(launcher: &Launcher) -> Self {
        let spawn = || {
            let mut command = Command::new(&launcher.program);
            command.args(&launcher.args).arg(GUARDIAN).env(super::worker::ATTACHED, "1");
            // Ctrl-C on the terminal must not reach it.
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
            let mut child = super::launch::alone(|| command.spawn()).ok()?;
            let stdin = child.stdin.take()?;
            Some((child, stdin))
        };
        Self { process: spawn() }
    }

    fn tell(&mut self, word: &str) {
        if let Some((_, pipe)) = &mut self.process {
            let _ = pipe.write_all(format!("{word}\n").as_bytes());
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if let Some((mut child, pipe)) = self.process.take() {
            drop(pipe);
            let _ = child.wait();
        }
    }
}

/// The inside of the guardian: keeps the list of programs until its standard input closes, then ends those still on it
/// and their strays.
pub fn guard(input: impl BufRead) {
    let mut programs = BTreeMap::new();
    for line in input.lines().map_while(Result::ok) {
        let mut words = line.get(1..).unwrap_or_default().split(' ');
        let pid = words.next().and_then(|n| n.parse::<i32>().ok());
        match (line.get(..1), pid) {
            (Some("+"), Some(pid)) => drop(programs.insert(pid, words.next().unwrap_or_default().to_string())),
            (Some("-"), Some(pid)) => drop(programs.remove(&pid)),
            _ => {}
        }
    }
    for (pid, mark) in programs {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        end_orphans(&mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_guardian_ends_the_groups_that_are_under_way_and_no_others() {
        let sleep = || Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let (mut under_way, mut finished) = (sleep(), sleep());
        let told = format!("+{} a\n+{} b\n-{}\n", finished.id(), under_way.id(), finished.id());
        guard(told.as_bytes());
        assert_eq!(under_way.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(finished.try_wait().unwrap().is_none());
        finished.kill().unwrap();
        finished.wait().unwrap();
    }
}
