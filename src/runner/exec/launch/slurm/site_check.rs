//! Whether jobs of a site can use a cache folder, found out by a job: before a week is lost. Some
//! of it cannot be seen from one host: above all whether a lock of one host holds on another.
//!
//! ```text
//! v1/site/<any>/lock            held by whoever asks; the node tries it
//! v1/site/<any>/node.json       what the node found
//! v1/site/<any>/ping, pong      written by either side once it sees the other's file before
//! v1/site/<any>/rank-N          one for each rank that was started
//! ```
//!
//! Judges nothing: what is good enough is said by whoever shows it.

use super::commands::{Answer, LIMIT, run};
use super::pace::{LATENCY, POLL};
use super::script::{Needs, escaped, head, quoted};
use super::unattended;
use crate::cache::store::Store;
use crate::exec::worker_program::WorkerProgram;
use crate::files::disk::{Durability, is_seen, list, read_json, remove, unique, write_file, write_json};
use crate::host::{class, host, model};
use crate::settings::Settings;
use crate::text::log_lines::tail;
use erw_base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Ranks that the job starts.
pub const RANKS: usize = 2;
/// How often either side looks for the other's files.
const TICK: Duration = Duration::from_millis(50);
/// How often the job is asked for.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long the node waits for the other side.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a node finds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    pub host: String,
    /// Version of erw.
    pub program: String,
    /// See [`crate::host::class`].
    pub class: String,
    /// The GPUs that it sees, if any.
    pub gpus: Option<String>,
    /// It could not take a lock that is held elsewhere, as it should be.
    pub lock_holds: bool,
}

/// What was found out.
#[derive(Debug, Clone)]
pub struct Findings {
    pub job: String,
    pub node: Node,
    /// Seconds until each side had seen a file of the other; `None`: not in time.
    pub seen: Option<f64>,
    /// Seconds that the node's clock is off at least.
    pub clock: f64,
    pub ranks: usize,
    pub requeue: bool,
    /// Why there is no accounting.
    pub accounting: Option<String>,
}

/// Submits a job and waits for what it finds. `tell` hears what happens meanwhile; `is_stopping`
/// ends it.
///
/// # Errors
/// When the job is refused, or ends without having found anything.
pub fn check(
    store: &Store,
    settings: &Settings,
    gpus: usize,
    tell: &mut dyn FnMut(String),
    is_stopping: &dyn Fn() -> bool,
) -> Result<Findings> {
    let folder = store.v1("site").join(unique().trim_start_matches(".tmp-"));
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let found = ask(&folder, settings, gpus, tell, is_stopping);
    let _ = remove(&folder);
    found
}

fn ask(
    folder: &Path,
    settings: &Settings,
    gpus: usize,
    tell: &mut dyn FnMut(String),
    is_stopping: &dyn Fn() -> bool,
) -> Result<Findings> {
    let lock = open_lock(folder)?;
    lock.try_lock().map_err(|e| Error::stage("cannot take a lock of the cache folder").because(e))?;
    let path = folder.join("job.sh");
    write_file(&path, script(folder, settings, gpus)?.as_bytes(), Durability::Now)
        .map_err(|e| Error::io("write", &path, e))?;
    let id = match run("sbatch", &["--parsable".into(), path.to_string_lossy().into_owned()], LIMIT)? {
        Answer::Text(text) => text.split(';').next().unwrap_or_default().to_string(),
        Answer::Refused(words) | Answer::Silence(words) => {
            return Err(Error::usage("`sbatch` did not take the job").because(words));
        }
    };
    tell(format!("job {id} is submitted; this ends when it has run"));
    let found = attend(folder, settings, &id, tell, is_stopping);
    if found.is_err() {
        let _ = run("scancel", std::slice::from_ref(&id), LIMIT);
    }
    found
}

fn attend(
    folder: &Path,
    settings: &Settings,
    id: &str,
    tell: &mut dyn FnMut(String),
    is_stopping: &dyn Fn() -> bool,
) -> Result<Findings> {
    let latency = settings.latency.unwrap_or(LATENCY);
    let mut job = Watched { name: name(folder), told: None, asked: None, over: None };
    let node: Node = loop {
        if let Some(node) = seen(folder, "node.json").map(|file| read_json(&file)).transpose()?.flatten() {
            break node;
        }
        if is_stopping() {
            return Err(Error::stage("stopped; the job was cancelled"));
        }
        if job.look(settings, tell)? && job.over.is_some_and(|over| over.elapsed() > latency) {
            let log = folder.join("log");
            let error = Error::stage("the job ended, and nothing that it found can be seen here");
            let error = tail(&log).into_iter().fold(error, |error, line| error.because(line));
            let hint = format!("does the node see `{}`, and can it start this program?", folder.display());
            return Err(error.hint(hint));
        }
        sleep(TICK);
    };
    let began = (Instant::now(), clock());
    write_json(&folder.join("ping"), &began.1, Durability::Now)?;
    let pong = loop {
        if let Some(there) = seen(folder, "pong").map(|file| read_json::<f64>(&file)).transpose()?.flatten() {
            break Some(there);
        }
        if began.0.elapsed() > latency.max(INTERVAL) || is_stopping() {
            break None;
        }
        sleep(TICK);
    };
    let ended = clock();
    let answer = Instant::now();
    while seen_ranks(folder) < RANKS && answer.elapsed() < latency && !job.look(settings, tell)? {
        sleep(TICK);
    }
    let shown = run("scontrol", &["show".into(), "job".into(), id.into()], LIMIT)?;
    Ok(Findings {
        job: id.into(),
        node,
        seen: pong.map(|_| ended - began.1),
        clock: pong.map_or(0.0, |there| (began.1 - there).max(there - ended).max(0.0)),
        ranks: seen_ranks(folder),
        requeue: matches!(shown, Answer::Text(text) if text.contains("Requeue=1")),
        accounting: accounting(),
    })
}

/// The job, asked for now and then.
struct Watched {
    name: String,
    told: Option<String>,
    asked: Option<Instant>,
    /// Since when it has ended.
    over: Option<Instant>,
}

impl Watched {
    /// Returns whether it has ended.
    fn look(&mut self, settings: &Settings, tell: &mut dyn FnMut(String)) -> Result<bool> {
        let interval = INTERVAL.min(settings.poll.unwrap_or(POLL));
        if self.asked.is_some_and(|asked| asked.elapsed() < interval) {
            return Ok(self.over.is_some());
        }
        self.asked = Some(Instant::now());
        let seen = unattended::look(std::slice::from_ref(&self.name))?.remove(&self.name);
        let Some(seen) = seen.filter(|seen| !seen.status.has_ended()) else {
            self.over.get_or_insert_with(Instant::now);
            return Ok(true);
        };
        let state = format!("it is {}: {}", seen.status.state.to_lowercase(), seen.status.reason);
        if self.told.as_ref() != Some(&state) {
            tell(state.clone());
            self.told = Some(state);
        }
        Ok(false)
    }
}

/// Why there is no accounting.
fn accounting() -> Option<String> {
    match run("sacct", &["--noheader", "--allocations", "--starttime=now-60"].map(String::from), LIMIT) {
        Ok(Answer::Text(_)) => None,
        Ok(Answer::Refused(words) | Answer::Silence(words)) => Some(words),
        Err(e) => Some(e.message),
    }
}

fn name(folder: &Path) -> String {
    let id = folder.file_name().unwrap_or_default().to_string_lossy();
    format!("erw-site-{id}")
}

fn script(folder: &Path, settings: &Settings, gpus: usize) -> Result<String> {
    let options = settings.of_stage("", "");
    let program = WorkerProgram::this()?.program;
    let threads = options.job_threads.unwrap_or(1);
    let first = format!("--job-name={} --requeue", name(folder));
    let fixed = [("output", escaped(&folder.join("log").to_string_lossy())), ("export", "NONE".into())];
    let mut lines = head(&first, &fixed, &options, Needs { ranks: RANKS, threads, mem: 0, gpus: gpus * RANKS });
    let (program, folder) = (quoted(&program.to_string_lossy()), quoted(&folder.to_string_lossy()));
    lines.push("unset SLURM_EXPORT_ENV".into());
    lines.push(format!("srun --ntasks={RANKS} --export=ALL {program} site probe {folder}"));
    Ok(lines.join("\n") + "\n")
}

/// The node's side: a rank of the job.
pub fn probe(folder: &Path) -> Result<()> {
    let rank = std::env::var("SLURM_PROCID").unwrap_or_else(|_| "0".into());
    write_json(&folder.join(format!("rank-{rank}")), &host(), Durability::Now)?;
    if rank != "0" {
        return Ok(());
    }
    let lock = open_lock(folder)?;
    let lock_holds = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
    let program = env!("CARGO_PKG_VERSION").into();
    let node = Node { host: host(), program, class: class().into(), gpus: model(true), lock_holds };
    write_json(&folder.join("node.json"), &node, Durability::Now)?;
    let began = Instant::now();
    while seen(folder, "ping").is_none() {
        if began.elapsed() > PATIENCE || !folder.exists() {
            return Ok(());
        }
        sleep(TICK);
    }
    write_json(&folder.join("pong"), &clock(), Durability::Now)
}

/// Seconds since 1970.
fn clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn open_lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    // For writing: network file systems make it a lock of bytes.
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    file.map_err(|e| Error::io("open the lock", &path, e))
}

/// A file, if it is there.
fn seen(folder: &Path, name: &str) -> Option<PathBuf> {
    Some(folder.join(name)).filter(|path| is_seen(path))
}

fn seen_ranks(folder: &Path) -> usize {
    let is_rank = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rank-"));
    list(folder).map_or(0, |all| all.iter().filter(|path| is_rank(path)).count())
}
