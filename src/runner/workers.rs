//! What a run has going: the processes of its stages, so that a stop reaches one or all of them, and a guardian that
//! ends them if the runner is killed.
//!
//! A worker ends by itself when its runner is gone, because it watches its standard input. A program does not, so its
//! mark and its process group are told to the guardian: a small process (this program, `erw worker guardian`) that reads
//! from a pipe what is under way and kills what is left of it when the pipe closes, whatever closed it. The mark is told
//! before the program is started: what a kill of the runner leaves running has not been executed yet, a matter of
//! microseconds. It holds the lock of its key, so that nothing worse follows than a wait.

use super::children::{self, Pause};
use super::ending::{self, end_orphans};
use super::launch::Launcher;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
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
    /// A program with this mark is about to be started.
    pub(super) fn expect(&self, mark: &str, launcher: &Launcher) {
        self.going().guardian.get_or_insert_with(|| Guardian::start(launcher)).tell(&format!("+{mark}"));
    }
    /// It was not started.
    pub(super) fn forget(&self, mark: &str) {
        self.going().tell(&format!("-{mark}"));
    }
    pub(super) fn add(&self, ticket: usize, process: Process) {
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
    pub(super) fn remove(&self, ticket: usize) {
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

/// The runner's end of the guardian.
#[derive(Debug)]
struct Guardian {
    /// `None`: it could not be started, and a killed runner leaves its programs to themselves.
    process: Option<(i32, ChildStdin)>,
}

impl Guardian {
    fn start(launcher: &Launcher) -> Self {
        let spawn = || {
            let mut command = Command::new(&launcher.program);
            command.args(&launcher.args).arg(GUARDIAN).env(super::worker::ATTACHED, "1");
            // Ctrl-C on the terminal must not reach it.
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
            let mut stdin = None;
            let started = children::start(Pause::GoesOn, || {
                let mut child = command.spawn()?;
                stdin = child.stdin.take();
                Ok(child.id() as i32)
            });
            let pid = started.ok()?;
            Some((pid, stdin?))
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
        if let Some((pid, pipe)) = self.process.take() {
            drop(pipe);
            let _ = ending::wait(pid, || ());
        }
    }
}

/// The inside of the guardian: keeps the list of programs, by their marks, until its standard input closes, then ends those
/// still on it and their strays. Lines are `+MARK`, `=MARK PID` and `-MARK`.
pub fn guard(input: impl BufRead) {
    let mut programs: BTreeMap<String, Option<i32>> = BTreeMap::new();
    for line in input.lines().map_while(Result::ok) {
        let (mark, pid) =
            line.get(1..).and_then(|rest| rest.split_once(' ')).unwrap_or((line.get(1..).unwrap_or(""), ""));
        match line.get(..1) {
            Some("+" | "=") => drop(programs.insert(mark.to_string(), pid.parse().ok())),
            Some("-") => drop(programs.remove(mark)),
            _ => {}
        }
    }
    for (mark, pid) in programs {
        if let Some(pid) = pid {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        end_orphans(&mark);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ending::MARK;
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Child;

    #[test]
    fn a_guardian_ends_what_is_under_way_and_nothing_else() {
        // A mark that no other run of this test has.
        let mark = |name: &str| format!("{name}.{}", std::process::id());
        let sleep =
            |name: &str| Command::new("sleep").arg("60").env(MARK, mark(name)).process_group(0).spawn().unwrap();
        let (mut under_way, mut starting, mut finished) = (sleep("a"), sleep("b"), sleep("c"));
        let [a, b, c] = ["a", "b", "c"].map(mark);
        let told = format!("+{a}\n={a} {}\n+{c}\n+{b}\n={c} {}\n-{c}\n", under_way.id(), finished.id());
        guard(told.as_bytes());
        // An error: it was waited for already.
        let ended = |child: &mut Child| child.wait().map_or(true, |status| status.signal() == Some(libc::SIGKILL));
        assert!(ended(&mut under_way));
        assert!(ended(&mut starting), "only its mark was known");
        assert!(finished.try_wait().unwrap().is_none());
        finished.kill().unwrap();
        finished.wait().unwrap();
    }
}
