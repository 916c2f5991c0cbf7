//! Programs that hang are killed after a while, so that their test fails and does not wait for
//! ever.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// More than any program of these tests needs on a slow machine.
const LIMIT: Duration = Duration::from_secs(600);

pub trait Deadline {
    /// Starts the program; it is killed if it still runs after `limit`.
    fn start_within(&mut self, limit: Duration) -> Child;
    /// Runs it to its end, with its output captured and nothing to read.
    fn finish_within(&mut self, limit: Duration) -> Output;

    fn start(&mut self) -> Child {
        self.start_within(LIMIT)
    }
    fn finish(&mut self) -> Output {
        self.finish_within(LIMIT)
    }
}

impl Deadline for Command {
    fn start_within(&mut self, limit: Duration) -> Child {
        let child = self.spawn().unwrap();
        guard(child.id(), limit);
        child
    }
    fn finish_within(&mut self, limit: Duration) -> Output {
        self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.start_within(limit).wait_with_output().unwrap()
    }
}

/// A thread of its own, since the test may wait for the process or read from it.
fn guard(pid: u32, limit: Duration) {
    let Some(started) = start_time(pid) else { return };
    let end = Instant::now() + limit;
    std::thread::spawn(move || {
        // The number may belong to another process once this one is gone.
        while start_time(pid).as_ref() == Some(&started) {
            if Instant::now() > end {
                shown(limit);
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

/// libtest shows it when the test fails.
#[expect(clippy::print_stdout, reason = "the test harness shows it when it matters")]
fn shown(limit: Duration) {
    println!("a program still ran after {limit:?} and was killed");
}

/// When a process started, in ticks of the kernel; `None` for one that is gone or ended.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    (fields[0] != "Z").then(|| fields[19].to_string())
}

#[test]
fn a_program_that_hangs_is_killed() {
    use std::os::unix::process::ExitStatusExt;
    let out = Command::new("sleep").arg("600").finish_within(Duration::from_millis(200));
    assert_eq!(out.status.signal(), Some(9));
    assert!(Command::new("true").finish().status.success());
}
