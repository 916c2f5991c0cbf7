//! `erw logs PIPELINE STAGE`: the log of a stage's last attempt, and the folder of its pictures;
//! `-f` follows it.

use super::common::pipeline_args::{PipelineArgs, one};
use super::common::print;
use erw_base::error::{Error, Result};
use erw_report::table::near;
use erw_runner::cache::action_cache::Record;
use erw_runner::cache::key::Key;
use erw_runner::cache::store::Store;
use erw_runner::files::digest::Digest;
use erw_runner::files::disk::list;
use erw_runner::journal::read;
use erw_runner::kind::Registry;
use erw_runner::kind::attempt::PICTURES;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::pipeline::targets::select;
use erw_runner::plan::{CacheChecker, Verdict, inputs, plan};
use erw_runner::text::log_lines::{Lines, cut, last_lines};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a followed log is read.
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Stage whose log to print
    pub stage: Option<String>,
    /// Print only the last N lines
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true, value_parser = lines)]
    pub lines: Option<usize>,
    /// Of a stage on several ranks, the log of this one [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub rank: usize,
    /// Follow the log until the stage ends
    #[arg(short, long)]
    pub follow: bool,
}

fn lines(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a number of lines, such as 20".into())
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load_for(&args.stage, registry, cache)?;
    let id = one(&pipeline, args.stage.as_deref().unwrap_or_default())?;
    let store = Store::open(cache)?;
    let name = &pipeline.stage(id).name;
    let known = match key(&pipeline, &store, id)? {
        Some(key) => latest(&store, &key, args.rank).map(|log| (key, log)),
        None => None,
    };
    // If no attempt had these values, the log of the last run's attempt is shown.
    let found = match known {
        Some(found) => Some(found),
        None => earlier(&store, &pipeline.name, name, args.rank)?,
    };
    let Some((key, log)) = found else {
        let of = if args.rank > 0 { format!(" of rank {}", args.rank) } else { String::new() };
        let error = Error::usage(format!("stage `{name}` has no log{of}"));
        return Err(error.hint("a stage that succeeds without output leaves none; run `erw log` to list the runs"));
    };
    show(&store, &key, &log, args)
}

/// The key of the stage, if its inputs are known.
pub fn key(pipeline: &Pipeline, store: &Store, id: StageId) -> Result<Option<Key>> {
    let checker = CacheChecker::new(pipeline, store, BTreeSet::new());
    let stage = pipeline.stage(id);
    let mut verdicts: BTreeMap<StageId, Verdict> =
        plan(&checker, &select(pipeline, std::slice::from_ref(&stage.name))?)?.into_iter().collect();
    let record = |id: &StageId, verdicts: &BTreeMap<StageId, Verdict>| -> Option<Record> {
        match verdicts.get(id) {
            Some(Verdict::Cached(record)) => Some((**record).clone()),
            _ => None,
        }
    };
    match verdicts.remove(&id) {
        Some(Verdict::Cached(record)) => Ok(Some(record.key())),
        Some(Verdict::Run(_)) => {
            let records: BTreeMap<StageId, Record> =
                verdicts.keys().filter_map(|id| Some((*id, record(id, &verdicts)?))).collect();
            Ok(Some(checker.key(stage, &inputs(stage, |from| records.get(&from))?)?.action.key))
        }
        _ => Ok(None),
    }
}

/// The log of the last attempt at an action, or of another rank of it, running or finished.
pub fn latest(store: &Store, key: &Key, rank: usize) -> Option<PathBuf> {
    let ending = if rank > 0 { format!(".rank-{rank}.log") } else { ".log".into() };
    let number = |p: &PathBuf| {
        let name = p.file_name()?.to_str()?;
        name.strip_prefix("attempt-")?.strip_suffix(&ending)?.parse::<u32>().ok()
    };
    let folders = [store.work_dir(key), store.log_dir(key)];
    folders.iter().find_map(|dir| list(dir).ok()?.into_iter().filter(|p| number(p).is_some()).max_by_key(number))
}

/// The log of the last attempt in the journals, wherever it is now.
fn earlier(store: &Store, pipeline: &str, stage: &str, rank: usize) -> Result<Option<(Key, PathBuf)>> {
    let Some((key, log)) = read::last_attempt(store, pipeline, stage)? else { return Ok(None) };
    let Ok(key) = key.parse::<Digest>().map(Key::from) else { return Ok(None) };
    let there = if log.exists() && rank == 0 { Some(log) } else { latest(store, &key, rank) };
    Ok(there.map(|log| (key, log)))
}

/// The folder of pictures of an action.
pub fn pictures(store: &Store, key: &Key) -> Option<PathBuf> {
    [store.work_dir(key), store.log_dir(key)].map(|dir| dir.join(PICTURES)).into_iter().find(|dir| dir.is_dir())
}

fn show(store: &Store, key: &Key, log: &Path, args: &Args) -> Result<()> {
    let failed = |e| Error::io("read", log, e);
    // The file moves when the stage ends; the open handle stays valid.
    let mut file = File::open(log).map_err(failed)?;
    let start = args.lines.map_or(Ok(0), |lines| last_lines(&mut file, lines)).map_err(failed)?;
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut out = Out::default();
    let mut block = vec![0; 1 << 16];
    loop {
        // Checked before reading, so that everything written until the end is read.
        let over = !args.follow || store.try_lock(key)?.is_some();
        loop {
            let bytes = file.read(&mut block).map_err(failed)?;
            if bytes == 0 {
                break;
            }
            if !out.write(&block[..bytes])? {
                return Ok(());
            }
        }
        if over {
            out.end()?;
            return match pictures(store, key) {
                Some(dir) => print(&format!("pictures: {}\n", near(&dir))),
                None => Ok(()),
            };
        }
        out.pause()?;
        std::thread::sleep(INTERVAL);
    }
}

/// Standard output. Files and programs get every byte; terminals get finished lines, without what
/// was overwritten.
#[derive(Default)]
struct Out {
    lines: Lines,
    /// The unfinished line that is on the terminal.
    unfinished: String,
}

/// Clears the line.
const WIPE: &str = "\r\x1b[K";

impl Out {
    /// Returns false if the reader is gone.
    fn write(&mut self, bytes: &[u8]) -> Result<bool> {
        if !std::io::stdout().is_terminal() {
            return put(bytes);
        }
        let text = self.lines.push(bytes);
        if text.is_empty() { Ok(true) } else { self.replace(&text) }
    }

    /// Shows the unfinished line, such as a progress bar, while nothing else comes.
    fn pause(&mut self) -> Result<bool> {
        let room = terminal_size::terminal_size_of(std::io::stdout()).map_or(80, |(w, _)| usize::from(w.0));
        let text = cut(&self.lines.unfinished(), room.saturating_sub(2));
        if text == self.unfinished {
            return Ok(true);
        }
        let shown = self.replace(&text);
        self.unfinished = text;
        shown
    }

    fn end(&mut self) -> Result<bool> {
        let text = self.lines.end();
        if text.is_empty() { Ok(true) } else { self.replace(&(text + "\n")) }
    }

    fn replace(&mut self, text: &str) -> Result<bool> {
        let wipe = if std::mem::take(&mut self.unfinished).is_empty() { "" } else { WIPE };
        put((wipe.to_string() + text).as_bytes())
    }
}

/// Returns false if the reader is gone, which is no error.
fn put(bytes: &[u8]) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::usage("cannot write to standard output").because(e)),
    }
}
