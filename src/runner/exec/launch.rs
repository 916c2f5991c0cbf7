//! Starts worker processes and reads their events. Does not know the graph, the store, or keys.
//!
//! A worker leads its own process group, so that Ctrl-C on the terminal reaches only the runner,
//! and so that everything the worker started can be ended with it. It inherits the open lock of its
//! key: while any process of the group lives, no other run can start the same action.

use super::environment::{self, Requested};
use super::launcher::Launcher;
use super::process_exit::{self, Ended, MemoryDeaths, describe};
use super::processes::{Process, Workers};
use super::spawn::{self, Pause, Program};
use super::watchdog::ATTACHED;
use crate::event::{Failure, Measure, WorkerEvent};
use crate::kind::attempt::{Job, RESULTS};
use crate::text::log_lines::tail;
use erw_base::error::{Error, Result};
use erw_base::limits;
use erw_base::process::FOR_WORKERS;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[derive(Debug)]
pub enum AttemptEnd {
    Done,
    Suspended,
    Failed(Failure),
}

/// The result of an attempt.
#[derive(Debug)]
pub struct AttemptReport {
    pub finish: AttemptEnd,
    pub results: Vec<Measure>,
    /// Warnings about the results.
    pub remarks: Vec<String>,
    /// (output, file).
    pub shown: Vec<(String, String)>,
    pub resumed: Option<u64>,
    /// Peak memory, in bytes.
    pub peak: u64,
}

/// The context of an attempt: its folder, log, lock and allocation.
#[derive(Clone, Copy)]
pub struct AttemptSite<'a> {
    pub launcher: &'a Launcher,
    pub workers: &'a Workers,
    pub deaths: &'a MemoryDeaths,
    /// Its number in `workers`.
    pub ticket: usize,
    pub log: &'a Path,
    pub lock: &'a File,
    /// Ids of the GPUs allocated to it.
    pub gpus: &'a [String],
    /// What its stage requests explicitly.
    pub stated: Requested,
}

impl AttemptSite<'_> {
    pub(crate) fn open_log(&self) -> Result<File> {
        let file = File::options().create(true).append(true).open(self.log);
        file.map_err(|e| Error::io("write", self.log, e))
    }

    /// Starts a worker as leader of a group that holds the lock, with the attempt's allocation in
    /// its environment.
    fn start_worker(&self, command: &mut Command, job: &Job) -> io::Result<Child> {
        command.envs(self.environment(job)).process_group(0);
        let inherit = |flag| fcntl(self.lock, FcntlArg::F_SETFD(flag)).map(drop).map_err(io::Error::from);
        let mut child = None;
        let pid = spawn::start(Pause::Stops, || {
            inherit(FdFlag::empty())?;
            let spawned = command.spawn();
            inherit(FdFlag::FD_CLOEXEC)?;
            Ok(child.insert(spawned?).id() as i32)
        })?;
        self.workers.add(self.ticket, Process { pid, mark: None });
        child.ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Starts a program in the same way, identified by its mark.
    pub(crate) fn start_program(&self, program: &Program<'_>, mark: &str) -> io::Result<i32> {
        self.workers.expect(mark, self.launcher);
        let pid = spawn::start(Pause::Stops, || program.spawn()).inspect_err(|_| self.workers.forget(mark))?;
        self.workers.add(self.ticket, Process { pid, mark: Some(mark.into()) });
        Ok(pid)
    }

    /// Variables set for the process on top of this process's environment.
    pub(crate) fn environment(&self, job: &Job) -> Vec<(&'static str, String)> {
        let given = Requested { threads: self.stated.threads, gpus: self.stated.gpus };
        let user = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let settings = environment::settings(given, job.threads, self.gpus, &user);
        settings.into_iter().filter_map(|s| Some((s.name, s.value?))).collect()
    }

    /// Waits for the process started by `start_worker` or `start_program` to end.
    pub(crate) fn wait(&self, pid: i32) -> Result<Ended> {
        process_exit::wait(pid, || self.workers.remove(self.ticket))
    }

    /// The failure of a process called `who` that ended this way.
    pub(crate) fn failure(&self, who: &str, ended: Ended) -> Failure {
        let tail = tail(self.log);
        let hints = disk_is_full(self.log).into_iter().chain(limits::hint_of_words(&tail)).collect();
        let failure = Failure { hints, log: Some(self.log.into()), tail, ..Failure::default() };
        if !self.deaths.explain(ended.status) {
            return Failure { message: format!("{who} {}", describe(ended.status)), ..failure };
        }
        let hint = "declare its memory, as in `resources = { mem = \"8GiB\" }`, so that less runs beside it";
        let message = format!("{who} was killed by the kernel: out of memory");
        let peak = format!("its peak memory was {:.1} MiB", ended.peak as f64 / f64::from(1 << 20));
        Failure { message, causes: vec![peak], hints: vec![hint.into()], ..failure }
    }
}

/// The path of the job description for the worker.
pub fn job_file(job: &Job) -> PathBuf {
    job.work_dir.join("job.json")
}

/// Runs the job from its [`job_file`] in a worker and reads its events until it ends.
pub fn launch(site: &AttemptSite<'_>, job: &Job, tell: &mut dyn FnMut(WorkerEvent)) -> Result<AttemptReport> {
    let mut log = site.open_log()?;
    let to_log = log.try_clone().map_err(|e| Error::stage("cannot use the log").because(e))?;
    let mut command = Command::new(&site.launcher.program);
    command
        .args(&site.launcher.args)
        .arg(job_file(job))
        .env(ATTACHED, "1")
        .envs(FOR_WORKERS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(to_log);
    let started = site.start_worker(&mut command, job);
    let mut child = started.map_err(|e| Error::stage("cannot start a worker").caused(e))?;
    let mut report = AttemptReport {
        finish: AttemptEnd::Suspended,
        results: vec![],
        remarks: vec![],
        shown: vec![],
        resumed: None,
        peak: 0,
    };
    let mut last = None;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n').map_while(|l| l.ok()) {
            let text = String::from_utf8_lossy(&line);
            // Anything else a library prints is not an event, but may be worth reading.
            let event = serde_json::from_str(&text).unwrap_or_else(|_| WorkerEvent::Log { text: text.into() });
            match &event {
                // Logged too, so that a reader needs one file, not a log and a journal.
                WorkerEvent::Log { text } => drop(writeln!(log, "{text}")),
                WorkerEvent::Show { output, file } => report.shown.push((output.clone(), file.clone())),
                WorkerEvent::Resumed { step } => report.resumed = Some(*step),
                WorkerEvent::Done | WorkerEvent::Suspended | WorkerEvent::Failed { .. } => last = Some(event.clone()),
                _ => {}
            }
            tell(event);
        }
    }
    let ended = site.wait(child.id() as i32)?;
    report.peak = ended.peak;
    report.finish = match last {
        Some(WorkerEvent::Done) if ended.status.success() => {
            let results = job.work_dir.join(RESULTS);
            report.results =
                super::metrics_json::of_file(&results).map_err(|e| Error::io("read", &results, e))?.results;
            AttemptEnd::Done
        }
        Some(WorkerEvent::Suspended) => AttemptEnd::Suspended,
        Some(WorkerEvent::Failed { message, causes, hints }) => AttemptEnd::Failed(Failure {
            message,
            causes,
            hints,
            log: Some(site.log.into()),
            tail: tail(site.log),
            ..Failure::default()
        }),
        // Asked to stop before it started reading events: nothing was begun.
        _ if site.workers.is_stopping(site.ticket) && ended.status.signal() == Some(Signal::SIGTERM as i32) => {
            AttemptEnd::Suspended
        }
        _ => AttemptEnd::Failed(site.failure("the worker", ended)),
    };
    Ok(report)
}

/// Added to any failure of a process: a full disk may have cut its log short.
fn disk_is_full(file: &Path) -> Option<String> {
    const LITTLE: u64 = 1 << 20;
    let disk = nix::sys::statvfs::statvfs(file.parent()?).ok()?;
    let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
    (free < LITTLE).then(|| format!("the disk of the cache is full: {free} bytes are left"))
}
