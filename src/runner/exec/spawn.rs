//! The processes that this one has started and not buried yet: programs, workers, the guardian.
//!
//! A program gets a session of its own. It has no controlling terminal then: whoever opens /dev/tty in it to ask for a
//! password gets an error, where the terminal would stop a process in the background for ever. It leads its process
//! group too. `posix_spawn` starts it, since a fork of a runner with many stages takes ten times as long as a short program;
//! the standard library does the same, but has no word for sessions.
//!
//! As this process adopts what programs leave behind, it must bury it too: [`bury_orphans`] does so whenever a child has
//! ended. What is nobody else's to wait for is known by two things: it is not listed here, and it is in another session.
//!
//! Knows no stages.

use erw_base::error::Result;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid, getsid};
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Does a process stop with the runner, when Ctrl-Z stops that?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    Stops,
    /// It watches.
    GoesOn,
}

#[derive(Default)]
struct Children {
    /// By number.
    living: BTreeMap<i32, Pause>,
    paused: bool,
}

static CHILDREN: Mutex<Children> = Mutex::new(Children { living: BTreeMap::new(), paused: false });

fn children() -> MutexGuard<'static, Children> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process that leads a group of its own. One at a time: while one is started that shall inherit an open file, no
/// other may pick it up. Whoever calls this has it buried by [`bury`].
pub fn start(pause: Pause, start: impl FnOnce() -> io::Result<i32>) -> io::Result<i32> {
    let mut children = children();
    let pid = start()?;
    children.living.insert(pid, pause);
    if children.paused && pause == Pause::Stops {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGSTOP);
    }
    Ok(pid)
}

/// Buries a child that has ended by `wait`.
pub fn bury<T>(pid: i32, wait: impl FnOnce() -> T) -> T {
    let mut children = children();
    let waited = wait();
    children.living.remove(&pid);
    waited
}

/// Stops everything under way, and what is started from now on.
pub fn pause() {
    send(true, Signal::SIGSTOP);
}

/// Lets it go on.
pub fn resume() {
    send(false, Signal::SIGCONT);
}

fn send(paused: bool, signal: Signal) {
    let mut children = children();
    children.paused = paused;
    for (pid, _) in children.living.iter().filter(|(_, pause)| **pause == Pause::Stops) {
        let _ = killpg(Pid::from_raw(*pid), signal);
    }
}

/// Has this child ended? It is not buried by the question.
pub fn has_ended(pid: i32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    !matches!(waitid(Id::Pid(Pid::from_raw(pid)), flags), Ok(WaitStatus::StillAlive) | Err(Errno::EINTR))
}

/// Buries what programs left behind and has ended by now.
pub fn bury_orphans() {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    if matches!(waitid(Id::All, flags), Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD)) {
        return;
    }
    // Nothing may be started between the look at the list and the burial.
    let children = children();
    let (me, session) = (getpid(), getsid(None));
    for pid in adopted(me).into_iter().filter(|pid| !children.living.contains_key(&pid.as_raw())) {
        if getsid(Some(pid)) != session {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Does something with the numbers of processes, none of which can go to another meanwhile.
pub fn while_none_is_buried<T>(work: impl FnOnce() -> T) -> T {
    let _children = children();
    work()
}

/// The children of the oldest thread, to which the kernel gives orphans; this program starts processes from others.
pub fn adopted(me: Pid) -> Vec<Pid> {
    pids(&String::from_utf8_lossy(&read(&format!("/proc/{me}/task/{me}/children"))))
}

pub fn pids(text: &str) -> Vec<Pid> {
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// A file that does not say how long it is, with few reads.
pub fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 << 13);
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    bytes
}

/// A program to be started.
pub struct Program<'a> {
    /// The program, looked for in PATH unless it holds a `/`, and its arguments.
    pub words: &'a [String],
    /// Where it runs.
    pub folder: &'a Path,
    /// Set for it, on top of what this process has.
    pub environment: &'a [(&'a str, String)],
    /// Takes both what it says and its errors.
    pub output: BorrowedFd<'a>,
    /// Stays open in it.
    pub held: BorrowedFd<'a>,
}

impl Program<'_> {
    /// The whole environment, as it is handed over: `NAME=VALUE`.
    pub fn whole_environment(&self) -> Vec<OsString> {
        let mut all: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        all.extend(self.environment.iter().map(|(name, value)| (name.into(), value.into())));
        let joined = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            name
        };
        all.into_iter().map(joined).collect()
    }

    /// Starts it as the leader of a session, with nothing to read. The number is that of its process.
    pub fn spawn(&self) -> io::Result<i32> {
        let words = self.words.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let folder = CString::new(self.folder.as_os_str().as_bytes())?;
        let environment = self.whole_environment().into_iter().map(|v| CString::new(v.into_vec()));
        let environment = environment.collect::<Result<Vec<_>, _>>()?;
        let (words, environment) = (pointers(&words), pointers(&environment));
        let mut actions = Actions::new()?;
        actions.prepare(self, &folder)?;
        let attributes = Attributes::new()?;
        let mut pid = 0;
        #[expect(unsafe_code, reason = "nix's posix_spawn cannot say where a program runs")]
        // Every pointer is to something above that lives until the end of this function; the lists end with a null.
        let failed = unsafe {
            libc::posix_spawnp(
                &mut pid,
                words[0],
                &raw const actions.0,
                &raw const attributes.0,
                words.as_ptr(),
                environment.as_ptr(),
            )
        };
        done(failed).map(|()| pid)
    }
}

/// The form in which lists of texts are handed to C.
fn pointers(texts: &[CString]) -> Vec<*mut libc::c_char> {
    texts.iter().map(|text| text.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

fn done(failed: libc::c_int) -> io::Result<()> {
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}

/// What the new process does before it becomes the program.
struct Actions(libc::posix_spawn_file_actions_t);

#[expect(unsafe_code, reason = "an object of C's, used only if its maker says that it made one; texts are copied")]
impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        unsafe {
            done(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Self(actions.assume_init()))
        }
    }

    fn prepare(&mut self, program: &Program<'_>, folder: &CString) -> io::Result<()> {
        let (output, held) = (program.output.as_raw_fd(), program.held.as_raw_fd());
        unsafe {
            done(libc::posix_spawn_file_actions_addopen(&mut self.0, 0, c"/dev/null".as_ptr(), libc::O_RDONLY, 0))?;
            // A file put in its own place is one that the program inherits.
            for (from, to) in [(output, 1), (output, 2), (held, held)] {
                done(libc::posix_spawn_file_actions_adddup2(&mut self.0, from, to))?;
            }
            done(libc::posix_spawn_file_actions_addchdir_np(&mut self.0, folder.as_ptr()))
        }
    }
}

#[expect(unsafe_code, reason = "made by `new`, and by nobody else")]
impl Drop for Actions {
    fn drop(&mut self) {
        unsafe {
            libc::posix_spawn_file_actions_destroy(&mut self.0);
        }
    }
}

/// A session of its own, no signal blocked, and SIGPIPE, which this program ignores, as programs expect it.
struct Attributes(libc::posix_spawnattr_t);

#[expect(unsafe_code, reason = "objects of C's, used only if their makers say that they made them")]
impl Attributes {
    fn new() -> io::Result<Self> {
        let flags = libc::POSIX_SPAWN_SETSID as i32 | libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let mut attributes = MaybeUninit::uninit();
        let mut signals = MaybeUninit::uninit();
        unsafe {
            done(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            let mut attributes = Self(attributes.assume_init());
            done(libc::posix_spawnattr_setflags(&mut attributes.0, flags as libc::c_short))?;
            libc::sigemptyset(signals.as_mut_ptr());
            done(libc::posix_spawnattr_setsigmask(&mut attributes.0, signals.as_ptr()))?;
            libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
            done(libc::posix_spawnattr_setsigdefault(&mut attributes.0, signals.as_ptr()))?;
            Ok(attributes)
        }
    }
}

#[expect(unsafe_code, reason = "made by `new`, and by nobody else")]
impl Drop for Attributes {
    fn drop(&mut self) {
        unsafe {
            libc::posix_spawnattr_destroy(&mut self.0);
        }
    }
}
