//! How processes end: waiting with resource usage, the exit in words, out-of-memory kills, and the
//! orphans of a program. Does not know stages.

use super::spawn::{self, adopted, pids, read};
use erw_base::error::{Error, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, getpid};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};

/// A process that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub status: ExitStatus,
    /// Peak memory in bytes, of the process or of a child that it waited for. The kernel includes
    /// what this process held when it started the child, so for a small program it is an upper
    /// bound.
    pub peak: u64,
}

/// Waits until the process has ended, calls `while_zombie` (its pid cannot be reused yet), and
/// reaps it. The caller must not wait for it in another way.
pub fn wait(pid: i32, while_zombie: impl FnOnce()) -> Result<Ended> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(Pid::from_raw(pid)), flags) == Err(Errno::EINTR) {}
    while_zombie();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    #[expect(unsafe_code, reason = "std and nix have no wait4, the only call that gives the peak memory of one child")]
    let (reaped, usage) =
        spawn::bury(pid, || unsafe { (libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()), usage.assume_init()) });
    if reaped != pid {
        return Err(Error::stage("cannot wait for a process").because(std::io::Error::last_os_error()));
    }
    Ok(Ended { status: ExitStatus::from_raw(status), peak: usage.ru_maxrss as u64 * 1024 })
}

/// How a process ended, to follow its name: `exited with status 1`.
pub fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.to_string());
            format!("was killed by {name}")
        }
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended in an unknown way".into(),
    }
}

/// Recognises out-of-memory kills by the kernel's counter.
#[derive(Debug)]
pub struct MemoryDeaths {
    /// Kills from before the run, and those already attributed.
    count: AtomicU64,
}

impl Default for MemoryDeaths {
    fn default() -> Self {
        Self { count: AtomicU64::new(deaths()) }
    }
}

impl MemoryDeaths {
    /// Whether this process, or a child whose death it reports as shells do, was killed for lack of
    /// memory. The kernel counts all victims, in control groups too. A victim outside this run is
    /// mistaken for ours only if ours was killed by hand after it.
    pub fn explain(&self, status: ExitStatus) -> bool {
        let killed = status.signal() == Some(libc::SIGKILL) || status.code() == Some(128 + libc::SIGKILL);
        let one_more = |count: u64| (count < deaths()).then_some(count + 1);
        // One kill explains one exit: several may have been killed at once.
        killed && self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }
}

fn deaths() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok());
    count.unwrap_or(0)
}

/// The environment variable that identifies the orphans of a program. Its value must be unique to
/// one attempt.
pub const ATTEMPT_VAR: &str = "ERW_ATTEMPT";
/// A killed process is gone at once unless it hangs in the kernel.
const ROUNDS: u32 = 2000;
const ROUND: std::time::Duration = std::time::Duration::from_millis(1);

/// Makes this process the parent of its programs' orphans, so that [`end_own_orphans`] finds them.
pub fn adopt_orphans() {
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// Ends the orphans of an ended program, also outside its process group: a daemon that goes on
/// writing must not hold an artifact open. Finds adopted processes whose environment has the mark;
/// one that clears its environment is missed.
pub fn end_own_orphans(mark: &str) {
    end_marked(mark, || adopted(getpid()));
}

/// The same for a runner that was killed: nobody adopted its orphans, so all processes are
/// searched.
pub fn end_orphans(mark: &str) {
    end_marked(mark, all);
}

fn end_marked(mark: &str, among: fn() -> Vec<Pid>) {
    let mark = format!("{ATTEMPT_VAR}={mark}");
    // Ending a process makes its children ours: repeat until none is found, or none of them ends.
    for _ in 0..ROUNDS {
        let marked = spawn::while_none_is_buried(|| {
            let marked: Vec<Pid> = among().into_iter().filter(|pid| has_variable(*pid, &mark)).collect();
            for pid in &marked {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            marked
        });
        for pid in &marked {
            // Not our child if it was not adopted, or already reaped.
            let _ = waitpid(*pid, None);
        }
        if marked.is_empty() {
            return;
        }
        std::thread::sleep(ROUND);
    }
}

fn all() -> Vec<Pid> {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    pids(&names.collect::<Vec<_>>().join(" "))
}

/// Zombies have no environment.
fn has_variable(pid: Pid, variable: &str) -> bool {
    let environment = read(&format!("/proc/{pid}/environ"));
    environment.split(|b| *b == 0).any(|v| v == variable.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        let ended = |raw| describe(ExitStatus::from_raw(raw));
        assert_eq!([ended(9), ended(1 << 8)], ["was killed by SIGKILL", "exited with status 1"]);
    }

    #[test]
    fn a_kill_is_for_lack_of_memory_only_when_the_kernel_counted_one() {
        let killed = ExitStatus::from_raw(libc::SIGKILL);
        assert!(!MemoryDeaths::default().explain(killed));
        // As if the kernel had counted one kill since the run began.
        let one_less = || MemoryDeaths { count: AtomicU64::new(deaths().wrapping_sub(1)) };
        if deaths() > 0 {
            assert!(one_less().explain(killed));
            assert!(one_less().explain(ExitStatus::from_raw(137 << 8)), "a shell tells of its child");
            assert!(!one_less().explain(ExitStatus::from_raw(1 << 8)));
        }
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "waited for by the function under test")]
    fn a_child_is_waited_for_with_its_peak() {
        let child = std::process::Command::new("true").spawn().unwrap();
        let ended = wait(child.id() as i32, || {}).unwrap();
        assert!(ended.status.success() && ended.peak > 0);
    }
}
