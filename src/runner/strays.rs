//! Ends what a program left running in a session of its own: a daemon with an output still open could write to an artifact
//! after its digest was taken, since a rename into the store keeps open files open.
//!
//! The worker adopts every orphan among its descendants (`PR_SET_CHILD_SUBREAPER`), so none is out of reach, whatever it
//! forked or called itself. What stays in the worker's process group is ended by the runner; this is for those that
//! left it. It does not know what the program was for, and it cannot help once the worker itself was killed: such an attempt
//! publishes nothing, and its stray keeps the inherited lock of the key, so that no other attempt works beside it.
//! Adopted processes that have ended stay unburied until the program ends, since only one thread may wait for it.

use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getpid};
use std::time::{Duration, Instant};

/// A killed process is gone at once unless it hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// From now on orphaned descendants become children of this process.
pub fn adopt() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| Error::stage("cannot adopt orphaned processes").because(e))
}

/// Ends every process that this one has started or adopted and not waited for. To be called when the program itself has
/// been waited for. The children of the ended are adopted in turn, hence the loop.
pub fn end() -> Result<()> {
    let began = Instant::now();
    while has_children() {
        descendants().into_iter().for_each(Process::kill);
        if began.elapsed() > PATIENCE {
            return Err(Error::stage("the program left processes behind that do not end")
                .hint("they may still write to its outputs; run again when they are gone"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Ends the descendants that left this process group, and waits for none: another thread may be waiting for one of them.
pub fn end_escaped() {
    let began = Instant::now();
    loop {
        let escaped: Vec<Process> = descendants().into_iter().filter(|p| p.group != getpgrp() && p.lives).collect();
        if escaped.is_empty() || began.elapsed() > PATIENCE {
            return;
        }
        escaped.into_iter().for_each(Process::kill);
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Buries the dead; are any left?
fn has_children() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return false,
            Ok(WaitStatus::StillAlive) => return true,
            _ => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Process {
    pid: Pid,
    parent: Pid,
    group: Pid,
    lives: bool,
}

impl Process {
    fn kill(self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// From `pid (name) state ppid pgrp …`; the name may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let pid = |text: &str| text.trim().parse().ok().map(Pid::from_raw);
        let (number, rest) = stat.split_once('(')?;
        let mut fields = rest.rsplit_once(')')?.1.split_whitespace();
        let lives = !matches!(fields.next()?, "Z" | "X");
        Some(Self { pid: pid(number)?, parent: pid(fields.next()?)?, group: pid(fields.next()?)?, lives })
    }
}

/// Asked of `/proc`, since only there a process learns whom it has adopted.
fn descendants() -> Vec<Process> {
    let listed = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = listed.filter_map(|e| std::fs::read_to_string(e.path().join("stat")).ok());
    let mut others: Vec<Process> = stats.filter_map(|s| Process::parse(&s)).collect();
    let (mut found, mut parents) = (vec![], vec![getpid()]);
    while let Some(parent) = parents.pop() {
        let (children, rest) = others.into_iter().partition(|p| p.parent == parent);
        others = rest;
        parents.extend(children.iter().map(|c: &Process| c.pid));
        found.extend(children);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_imitate_the_fields_behind_it() {
        let process = Process::parse("12 (a) Z 1 1 (b) S 7 8 9 0 -1").unwrap();
        assert_eq!(
            (process.pid, process.parent, process.group),
            (Pid::from_raw(12), Pid::from_raw(7), Pid::from_raw(8))
        );
        assert!(process.lives);
        assert!(Process::parse("").is_none());
    }
}
