//! A second process that ends the programs of a run when the run itself is killed. It is told of
//! every program before that starts, and acts when its input closes. Knows processes by pid and
//! mark; does not know stages.

use super::process_exit::{self, end_orphans};
use super::spawn::{self, Pause};
use super::worker_program::WorkerProgram;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};

/// Set by the runner for its workers. Without it (a cluster job, a person) standard input is not
/// watched.
pub const ATTACHED: &str = "ERW_WORKER_ATTACHED";

/// The argument of `erw worker` that starts a watchdog instead of a job.
pub const WATCHDOG: &str = "watchdog";

/// The runner's end of the pipe to the watchdog.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// `None`: it could not be started, so programs survive if the runner is killed.
    process: Option<(i32, ChildStdin)>,
}

impl Watchdog {
    pub(crate) fn start(worker: &WorkerProgram) -> Self {
        let spawn = || {
            let mut command = Command::new(&worker.program);
            command.args(&worker.args).arg(WATCHDOG).env(self::ATTACHED, "1");
            // Ctrl-C on the terminal must not reach it.
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
            let mut stdin = None;
            let started = spawn::start(Pause::GoesOn, || {
                let mut child = command.spawn()?;
                stdin = child.stdin.take();
                Ok(child.id() as i32)
            });
            let pid = started.ok()?;
            Some((pid, stdin?))
        };
        Self { process: spawn() }
    }

    pub(crate) fn tell(&mut self, word: &str) {
        if let Some((_, pipe)) = &mut self.process {
            let _ = pipe.write_all(format!("{word}\n").as_bytes());
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some((pid, pipe)) = self.process.take() {
            drop(pipe);
            let _ = process_exit::wait(pid, || ());
        }
    }
}

/// The main loop of the watchdog: keeps a list of running programs by their marks until standard
/// input closes, then ends those still on it and their orphans. Lines are `+MARK`, `=MARK PID` and
/// `-MARK`.
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
    use super::*;
    use crate::exec::process_exit::ATTEMPT_VAR;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    #[test]
    fn the_watchdog_ends_running_programs_only() {
        // Unique to this run of the test.
        let mark = |name: &str| format!("{name}.{}", std::process::id());
        let sleep =
            |name: &str| Command::new("sleep").arg("60").env(ATTEMPT_VAR, mark(name)).process_group(0).spawn().unwrap();
        let (mut under_way, mut starting, mut finished) = (sleep("a"), sleep("b"), sleep("c"));
        let [a, b, c] = ["a", "b", "c"].map(mark);
        let told = format!("+{a}\n={a} {}\n+{c}\n+{b}\n={c} {}\n-{c}\n", under_way.id(), finished.id());
        guard(told.as_bytes());
        // Fails, because it was already waited for.
        let ended = |child: &mut Child| child.wait().map_or(true, |status| status.signal() == Some(libc::SIGKILL));
        assert!(ended(&mut under_way));
        assert!(ended(&mut starting), "only its mark was known");
        assert!(finished.try_wait().unwrap().is_none());
        finished.kill().unwrap();
        finished.wait().unwrap();
    }
}
