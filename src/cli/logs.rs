//! `erw logs PIPELINE STAGE`: what the last attempt at a stage wrote, and where the pictures are that it drew; `-f`
//! follows it.

use super::common::{PipelineArgs, print};
use super::why::one;
use crate::error::{Error, Result};
use crate::report::table::near;
use crate::runner::attempt::PICTURES;
use crate::runner::digest::Digest;
use crate::runner::disk::list;
use crate::runner::graph::{Pipeline, StageId};
use crate::runner::key::Key;
use crate::runner::manifest::Registry;
use crate::runner::plan::{Judge, Verdict, inputs, plan};
use crate::runner::select::select;
use crate::runner::store::Store;
use crate::runner::{actions::Record, history};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a log that is followed is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The stage whose log to print
    pub stage: Option<String>,
    /// Go on until the stage ends
    #[arg(short, long)]
    pub follow: bool,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load_for(&args.stage, registry, cache)?;
    let id = one(&pipeline, args.stage.as_deref().unwrap_or_default())?;
    let store = Store::open(cache)?;
    let name = &pipeline.stage(id).name;
    let known = match key(&pipeline, &store, id)? {
        Some(key) => latest(&store, &key).map(|log| (key, log)),
        None => None,
    };
    // With these values nothing was tried: the last run may have had others.
    let found = match known {
        Some(found) => Some(found),
        None => earlier(&store, &pipeline.name, name)?,
    };
    let Some((key, log)) = found else {
        let error = Error::usage(format!("no attempt at stage `{name}` has left a log"));
        return Err(error.hint("a stage that ends well and says nothing leaves none; `erw log` lists the runs"));
    };
    show(&store, &key, &log, args.follow)
}

/// The key of the stage, if its inputs are known.
pub fn key(pipeline: &Pipeline, store: &Store, id: StageId) -> Result<Option<Key>> {
    let judge = Judge::new(pipeline, store, BTreeSet::new());
    let stage = pipeline.stage(id);
    let mut verdicts: BTreeMap<StageId, Verdict> =
        plan(&judge, &select(pipeline, std::slice::from_ref(&stage.name))?)?.into_iter().collect();
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
            Ok(Some(judge.key(stage, &inputs(stage, |from| records.get(&from))?)?.action.key))
        }
        _ => Ok(None),
    }
}

/// The log of the last attempt at an action, under way or finished.
fn latest(store: &Store, key: &Key) -> Option<PathBuf> {
    let number = |p: &PathBuf| {
        let name = p.file_name()?.to_str()?;
        name.strip_prefix("attempt-")?.strip_suffix(".log")?.parse::<u32>().ok()
    };
    let folders = [store.work_dir(key), store.log_dir(key)];
    folders.iter().find_map(|dir| list(dir).ok()?.into_iter().filter(|p| number(p).is_some()).max_by_key(number))
}

/// The log of the last attempt that a journal tells of, wherever it lies by now.
fn earlier(store: &Store, pipeline: &str, stage: &str) -> Result<Option<(Key, PathBuf)>> {
    let Some((key, log)) = history::last_attempt(store, pipeline, stage)? else { return Ok(None) };
    let Ok(key) = key.parse::<Digest>().map(Key::from) else { return Ok(None) };
    let there = if log.exists() { Some(log) } else { latest(store, &key) };
    Ok(there.map(|log| (key, log)))
}

/// The folder of pictures that the work on an action has drawn.
fn pictures(store: &Store, key: &Key) -> Option<PathBuf> {
    [store.work_dir(key), store.log_dir(key)].map(|dir| dir.join(PICTURES)).into_iter().find(|dir| dir.is_dir())
}

fn show(store: &Store, key: &Key, log: &Path, follow: bool) -> Result<()> {
    // It moves when the stage ends; what is open stays.
    let mut file = File::open(log).map_err(|e| Error::io("read", log, e))?;
    loop {
        // Looked at before reading: what was written until then is read.
        let over = !follow || store.try_lock(key)?.is_some();
        let mut bytes = vec![];
        file.read_to_end(&mut bytes).map_err(|e| Error::io("read", log, e))?;
        print(&String::from_utf8_lossy(&bytes))?;
        if over {
            return match pictures(store, key) {
                Some(dir) => print(&format!("pictures: {}\n", near(&dir))),
                None => Ok(()),
            };
        }
        std::thread::sleep(INTERVAL);
    }
}
