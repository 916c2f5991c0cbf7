//! The processes that this one has started and not reaped yet: programs, workers, the watchdog.
//!
//! A program gets its own session, hence no controlling terminal: opening /dev/tty to ask for a
//! password fails, where a background process would be stopped forever. It leads its process group,
//! too. It is started by `posix_spawn`, because forking a runner with many stages takes ten times
//! as long as a short program; the standard library uses it too, but cannot create sessions. With a
//! C library older than glibc 2.29, whose `posix_spawn` cannot change the folder, it forks.
//!
//! Since this process adopts the orphans of programs, it must reap them: [`bury_orphans`] does so
//! whenever a child has ended. It reaps only processes that are not listed here and are in another
//! session.
//!
//! Knows no stages.

use erw_base::error::Result;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid, getsid};
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Whether a process stops with the runner on Ctrl-Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    Stops,
    /// The watchdog.
    GoesOn,
}

#[derive(Default)]
struct Children {
    /// By pid.
    living: BTreeMap<i32, Pause>,
    paused: bool,
}

static CHILDREN: Mutex<Children> = Mutex::new(Children { living: BTreeMap::new(), paused: false });

fn children() -> MutexGuard<'static, Children> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process that leads its own group, or joins that of one started before. One at a time: while a process is started that
/// inherits an open file, no other may inherit it too. The caller must reap it with [`bury`].
pub fn start(pause: Pause, start: impl FnOnce() -> io::Result<i32>) -> io::Result<i32> {
    let mut children = children();
    let pid = start()?;
    children.living.insert(pid, pause);
    if children.paused && pause == Pause::Stops {
        signal(pid, Signal::SIGSTOP);
    }
    Ok(pid)
}

/// Reaps a child that has ended, by calling `wait`.
pub fn bury<T>(pid: i32, wait: impl FnOnce() -> T) -> T {
    let mut children = children();
    let waited = wait();
    children.living.remove(&pid);
    waited
}

/// Stops all processes, and those started from now on.
pub fn pause() {
    send(true, Signal::SIGSTOP);
}

/// Continues them.
pub fn resume() {
    send(false, Signal::SIGCONT);
}

fn send(paused: bool, signal: Signal) {
    let mut children = children();
    children.paused = paused;
    for (pid, _) in children.living.iter().filter(|(_, pause)| **pause == Pause::Stops) {
        self::signal(*pid, signal);
    }
}

/// Sends a signal to a group, or to a process that leads none: another rank of an attempt.
fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid);
    let _ = killpg(pid, signal).or_else(|_| kill(pid, signal));
}

/// Whether this child has ended. Does not reap it.
pub fn has_ended(pid: i32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    !matches!(waitid(Id::Pid(Pid::from_raw(pid)), flags), Ok(WaitStatus::StillAlive) | Err(Errno::EINTR))
}

/// Reaps orphans of programs that have ended.
pub fn bury_orphans() {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    if matches!(waitid(Id::All, flags), Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD)) {
        return;
    }
    // Nothing may be started between reading the list and reaping.
    let children = children();
    let (me, session) = (getpid(), getsid(None));
    for pid in adopted(me).into_iter().filter(|pid| !children.living.contains_key(&pid.as_raw())) {
        if getsid(Some(pid)) != session {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Runs `work` while no pid can be reused.
pub fn while_none_is_buried<T>(work: impl FnOnce() -> T) -> T {
    let _children = children();
    work()
}

/// The children of the oldest thread, to which the kernel reparents orphans; this program starts
/// processes from other threads.
pub fn adopted(me: Pid) -> Vec<Pid> {
    pids(&String::from_utf8_lossy(&read(&format!("/proc/{me}/task/{me}/children"))))
}

pub fn pids(text: &str) -> Vec<Pid> {
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// Reads a file of unknown length in few reads.
pub fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 << 13);
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    bytes
}

/// The program, looked up in PATH unless it contains a `/`, and its arguments.
pub struct Program<'a> {
    pub words: &'a [String],
    /// The working folder.
    pub folder: &'a Path,
    /// Variables set on top of this process's environment.
    pub environment: &'a [(&'a str, String)],
    /// Receives standard output and standard error.
    pub output: BorrowedFd<'a>,
    /// An open file that the program inherits.
    pub held: BorrowedFd<'a>,
}

impl Program<'_> {
    /// The complete environment as passed to the program: `NAME=VALUE`.
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

    /// Starts it as leader of a session, without standard input. Returns its pid.
    pub fn spawn(&self) -> io::Result<i32> {
        match *ADD_CHDIR {
            Some(add_chdir) => self.spawn_in(add_chdir),
            None => self.fork(),
        }
    }

    fn spawn_in(&self, add_chdir: AddChdir) -> io::Result<i32> {
        let words = self.words.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let folder = CString::new(self.folder.as_os_str().as_bytes())?;
        let environment = self.whole_environment().into_iter().map(|v| CString::new(v.into_vec()));
        let environment = environment.collect::<Result<Vec<_>, _>>()?;
        let (words, environment) = (pointers(&words), pointers(&environment));
        let mut actions = Actions::new()?;
        actions.prepare(self, &folder, add_chdir)?;
        let attributes = Attributes::new()?;
        let mut pid = 0;
        #[expect(unsafe_code, reason = "nix's posix_spawn cannot say where a program runs")]
        // Every pointer refers to something above that lives until the end of this function; the
        // lists end with a null.
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

    fn fork(&self) -> io::Result<i32> {
        let [program, arguments @ ..] = self.words else { return Err(io::ErrorKind::InvalidInput.into()) };
        let output = || self.output.try_clone_to_owned().map(Stdio::from);
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.folder)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output()?).stderr(output()?);
        let held = self.held.as_raw_fd();
        #[expect(unsafe_code, reason = "runs after a fork: only calls that are allowed there")]
        unsafe {
            command.pre_exec(move || {
                if libc::setsid() < 0 || libc::fcntl(held, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.spawn().map(|child| child.id() as i32)
    }
}

/// `posix_spawn_file_actions_addchdir_np`.
type AddChdir = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, *const libc::c_char) -> libc::c_int;

/// Asked for by name, so that the program also starts where there is none: before glibc 2.29.
#[expect(unsafe_code, reason = "what has this name has this type")]
static ADD_CHDIR: LazyLock<Option<AddChdir>> = LazyLock::new(|| unsafe {
    let found = libc::dlsym(libc::RTLD_DEFAULT, c"posix_spawn_file_actions_addchdir_np".as_ptr());
    (!found.is_null()).then(|| std::mem::transmute::<*mut libc::c_void, AddChdir>(found))
});

/// A list of strings as C expects it.
fn pointers(texts: &[CString]) -> Vec<*mut libc::c_char> {
    texts.iter().map(|text| text.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

fn done(failed: libc::c_int) -> io::Result<()> {
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}

/// What the new process does before it executes the program.
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

    fn prepare(&mut self, program: &Program<'_>, folder: &CString, add_chdir: AddChdir) -> io::Result<()> {
        let (output, held) = (program.output.as_raw_fd(), program.held.as_raw_fd());
        unsafe {
            done(libc::posix_spawn_file_actions_addopen(&mut self.0, 0, c"/dev/null".as_ptr(), libc::O_RDONLY, 0))?;
            // Duplicating a file onto its own number makes the program inherit it.
            for (from, to) in [(output, 1), (output, 2), (held, held)] {
                done(libc::posix_spawn_file_actions_adddup2(&mut self.0, from, to))?;
            }
            done(add_chdir(&mut self.0, folder.as_ptr()))
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

/// A session of its own, no blocked signals, and default handling of SIGPIPE, which this program
/// ignores but programs expect.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// What a program finds, started this way: its session, folder and variable, whether SIGPIPE ends
    /// it, and what is in the file that it inherits.
    fn found(start: impl Fn(&Program<'_>) -> io::Result<i32>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let held = dir.path().join("held");
        std::fs::write(&held, "held").unwrap();
        let (held, output) = (File::open(held).unwrap(), File::create(dir.path().join("output")).unwrap());
        let script = format!(
            "[ $(cut -d' ' -f6 /proc/$$/stat) = $$ ] && echo leads; [ $(pwd -P) = \"$HERE\" ] && echo there\n\
             ignored=$(sed -n 's/^SigIgn:.//p' /proc/$$/status); [ $((0x$ignored & 4096)) = 0 ] && echo ends\n\
             echo $NAME; read line && echo input; cat <&{} >&2",
            held.as_raw_fd()
        );
        let here = dir.path().canonicalize().unwrap().to_string_lossy().into_owned();
        let program = Program {
            words: &["sh".into(), "-c".into(), script],
            folder: dir.path(),
            environment: &[("NAME", "value".into()), ("HERE", here)],
            output: output.as_fd(),
            held: held.as_fd(),
        };
        let pid = super::start(Pause::Stops, || start(&program)).unwrap();
        bury(pid, || waitpid(Pid::from_raw(pid), None)).unwrap();
        let missing = start(&Program { folder: Path::new("/nowhere"), ..program }).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        std::fs::read_to_string(dir.path().join("output")).unwrap()
    }

    #[test]
    fn a_program_finds_the_same_with_an_old_c_library() {
        let said = found(|program| program.spawn());
        assert_eq!(said, "leads\nthere\nends\nvalue\nheld");
        assert_eq!(found(|program| program.fork()), said);
    }
}
