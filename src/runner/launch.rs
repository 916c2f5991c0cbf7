//! Starts worker processes and listens to them. Unaware of the graph, the store and keys.
//!
//! A worker leads a process group of its own, so that Ctrl-C on the terminal reaches the runner only, and so that
//! everything a worker started can be ended with it. It inherits the open lock of its key: while any process of
//! the group lives, no other run can start the same action.

use super::attempt::Job;
use super::event::{Failure, Measure, WorkerEvent};
use super::program::describe;
use super::worker::ATTACHED;
use crate::error::{Error, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Lines and bytes of a log shown when a worker fails.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 8192;

/// How to start a worker; the path of the job file is appended.
#[derive(Debug, Clone)]
pub struct Launcher {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

impl Launcher {
    /// This very program, as `erw worker JOB`.
    pub fn this_program() -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| Error::usage("cannot find this program").because(e))?;
        Ok(Self { program, args: vec!["worker".into()] })
    }
}

/// What a run has going, so that a stop reaches all of it.
#[derive(Debug, Default)]
pub struct Workers(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    pids: BTreeSet<i32>,
    stopping: bool,
}

impl Workers {
    /// Asks every worker, and every later one, to put its work down.
    pub fn stop(&self) {
        let mut going = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        going.stopping = true;
        for &pid in &going.pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
    fn is_stopping(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stopping
    }
    /// Ends every worker and what it started, now.
    pub fn kill(&self) {
        let going = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for &pid in &going.pids {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    fn add(&self, pid: i32) {
        let mut going = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        going.pids.insert(pid);
        if going.stopping {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
    /// Called while the process is a zombie: its number cannot have gone to another yet.
    fn remove(&self, pid: i32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pids.remove(&pid);
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[derive(Debug)]
pub enum Finish {
    Done,
    Suspended,
    Failed(Failure),
}

/// What came of an attempt.
#[derive(Debug)]
pub struct Report {
    pub finish: Finish,
    pub results: Vec<Measure>,
    /// (output, file).
    pub shown: Vec<(String, String)>,
    pub resumed: Option<u64>,
}

/// Where a job is written down for its worker.
pub fn job_file(job: &Job) -> PathBuf {
    job.work_dir.join("job.json")
}

/// Runs the job, which lies in its [`job_file`], in a worker and listens to it until it ends. `gpus` are the ids it
/// may see.
pub fn launch(
    launcher: &Launcher,
    workers: &Workers,
    job: &Job,
    log: &Path,
    lock: &File,
    gpus: &[String],
    tell: &mut dyn FnMut(WorkerEvent),
) -> Result<Report> {
    let log_file = File::options().create(true).append(true).open(log).map_err(|e| Error::io("write", log, e))?;
    let mut child = spawn(launcher, job, &log_file, lock, gpus)?;
    let pid = child.id() as i32;
    workers.add(pid);
    let mut report = Report { finish: Finish::Suspended, results: vec![], shown: vec![], resumed: None };
    let mut last = None;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n').map_while(|l| l.ok()) {
            let text = String::from_utf8_lossy(&line);
            // Whatever a library prints is not an event, but someone may want to read it.
            let event = serde_json::from_str(&text).unwrap_or_else(|_| WorkerEvent::Log { text: text.into() });
            match &event {
                // What is read later is one file, not a file and a journal.
                WorkerEvent::Log { text } => drop(writeln!(&log_file, "{text}")),
                WorkerEvent::Result { name, value } => {
                    report.results.push(Measure { name: name.clone(), value: *value });
                }
                WorkerEvent::Show { output, file } => report.shown.push((output.clone(), file.clone())),
                WorkerEvent::Resumed { step } => report.resumed = Some(*step),
                WorkerEvent::Done | WorkerEvent::Suspended | WorkerEvent::Failed { .. } => last = Some(event.clone()),
                _ => {}
            }
            tell(event);
        }
    }
    let _ = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    workers.remove(pid);
    let status = child.wait().map_err(|e| Error::stage("cannot wait for the worker").because(e))?;
    report.finish = match last {
        Some(WorkerEvent::Done) if status.success() => Finish::Done,
        Some(WorkerEvent::Suspended) => Finish::Suspended,
        Some(WorkerEvent::Failed { message, causes, hints }) => {
            Finish::Failed(Failure { message, causes, hints, log: Some(log.into()), tail: tail(log) })
        }
        // Asked to stop before it could listen: nothing was begun.
        _ if workers.is_stopping() && status.signal() == Some(Signal::SIGTERM as i32) => Finish::Suspended,
        _ => {
            let message = format!("the worker {}", describe(status));
            Finish::Failed(Failure { message, log: Some(log.into()), tail: tail(log), ..Failure::default() })
        }
    };
    Ok(report)
}

fn spawn(launcher: &Launcher, job: &Job, log: &File, lock: &File, gpus: &[String]) -> Result<Child> {
    /// One spawn at a time: while a lock is made inheritable, no other child may pick it up.
    static SPAWNING: Mutex<()> = Mutex::new(());
    let log_file = log.try_clone().map_err(|e| Error::stage("cannot use the log").because(e))?;
    let mut command = Command::new(&launcher.program);
    command
        .args(&launcher.args)
        .arg(job_file(job))
        .env("RAYON_NUM_THREADS", job.threads.to_string())
        .env("OMP_NUM_THREADS", job.threads.to_string())
        .env("CUDA_VISIBLE_DEVICES", gpus.join(","))
        .env(ATTACHED, "1")
        // Errors are told in words; a panic still leaves its backtrace in the log when RUST_BACKTRACE asks for it.
        .env("RUST_LIB_BACKTRACE", std::env::var_os("RUST_LIB_BACKTRACE").unwrap_or_else(|| "0".into()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .process_group(0);
    let failed = |e: std::io::Error| Error::stage("cannot start a worker").because(e);
    let _alone = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    let inherit = |flag| fcntl(lock, FcntlArg::F_SETFD(flag)).map(drop).map_err(|e| failed(e.into()));
    inherit(FdFlag::empty())?;
    let child = command.spawn().map_err(failed);
    inherit(FdFlag::FD_CLOEXEC)?;
    child
}

/// The last lines of a log.
fn tail(log: &Path) -> Vec<String> {
    let read = || {
        let mut file = File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(ToString::to_string).collect()
}
