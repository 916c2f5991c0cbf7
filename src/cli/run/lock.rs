//! `erw run --lock` and `--locked`: writes the lock file of a pipeline, or compares with it and
//! reports.

use crate::common::{columns, print};
use erw_base::error::{Error, Result};
use erw_report::table::near;
use erw_report::text::{count, number};
use erw_runner::cache::action_cache::{self, Lookup, Record, check_whole};
use erw_runner::cache::key::Key;
use erw_runner::cache::store::Store;
use erw_runner::event::StageEnd;
use erw_runner::files::digest::Digest;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::plan::CacheChecker;
use erw_runner::repro::compare::{Agreement, Pair};
use erw_runner::repro::lockfile::{Compared, Lock, Mismatch, path};
use erw_runner::text::shell::quoted;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Reads the lock file and compares the keys of the selected stages with it, before anything runs.
pub fn before(pipeline: &Pipeline, selected: &[StageId], cache: &Path) -> Result<Lock> {
    let lock = Lock::read(&path(&pipeline.file))?;
    let store = Store::open(cache)?;
    let checker = CacheChecker::new(pipeline, &store, BTreeSet::new());
    let faults = lock.keys(&checker, selected)?;
    if faults.is_empty() { Ok(lock) } else { Err(error(pipeline, &faults, false)) }
}

/// Compares outputs and results with the lock file; `quiet` leaves standard output to the events.
pub fn after(lock: &Lock, pipeline: &Pipeline, ends: &[StageEnd], cache: &Path, quiet: bool) -> Result<()> {
    let store = Store::open(cache)?;
    let compared = lock.compare(&store, pipeline, &records(pipeline, ends, &store)?)?;
    if !quiet {
        print(&text(&compared, &near(&path(&pipeline.file))))?;
    }
    if compared.faults.is_empty() { Ok(()) } else { Err(error(pipeline, &compared.faults, true)) }
}

/// Writes the lock file after a run in which every stage succeeded.
pub fn write(pipeline: &Pipeline, ends: &[StageEnd], cache: &Path, quiet: bool) -> Result<()> {
    let store = Store::open(cache)?;
    let records = records(pipeline, ends, &store)?;
    let file = path(&pipeline.file);
    Lock::of(&store, pipeline, &records)?.write(&file)?;
    if quiet { Ok(()) } else { print(&format!("locked {} in {}\n", count(records.len(), "stage"), near(&file))) }
}

/// The records of all stages, after reading their artifacts. A run checks unused artifacts by size
/// only, but a lock file states every byte.
fn records(pipeline: &Pipeline, ends: &[StageEnd], store: &Store) -> Result<BTreeMap<StageId, Record>> {
    let mut records = BTreeMap::new();
    let by_name = pipeline.by_name();
    for end in ends {
        let key = end.key.as_ref().and_then(|k| k.parse::<Digest>().ok()).map(Key::from);
        let (Some(key), Some(id)) = (key, by_name.get(end.stage.as_str()).copied()) else { continue };
        if let Lookup::Hit(record) = action_cache::lookup(store, &key)? {
            check_whole(store, &record)?;
            records.insert(id, *record);
        }
    }
    Ok(records)
}

/// The error about stages that differ from the lock file, before they run or in their outputs.
fn error(pipeline: &Pipeline, faults: &[Mismatch], outputs: bool) -> Error {
    let file = quoted(&pipeline.file.to_string_lossy());
    let names: Vec<String> = faults.iter().map(|f| format!("`{}`", f.stage)).collect();
    let (noun, verb) = if names.len() == 1 { ("stage", "differs") } else { ("stages", "differ") };
    let names = names.join(", ");
    let subject =
        if outputs { format!("the outputs of {noun} {names} differ") } else { format!("{noun} {names} {verb}") };
    let error = Error::stage(format!("{subject} from `{}`", near(&path(&pipeline.file))));
    let error = faults.iter().fold(error, |e, f| e.because(format!("{}: {}", f.stage, f.what.join("\n"))));
    let stage = quoted(&faults[0].stage);
    error
        .hint(format!("run `erw why {file} {stage}` to see what changed"))
        .hint(format!("if the change is intended, run `erw run {file} --lock` to update the lock file"))
}

/// How many stages match, and how the others were compared.
fn text(compared: &Compared, lock: &str) -> String {
    let mut rows: Vec<Vec<String>> = vec![];
    for (stage, agreement) in &compared.others {
        rows.extend(says(agreement).into_iter().map(|line| vec![stage.clone(), line]));
    }
    rows.extend(
        compared.dependent.iter().map(|s| vec![s.clone(), "not compared: depends on an output that differs".into()]),
    );
    let exact = compared.exact.len();
    let all = exact + compared.others.len() + compared.dependent.len() + compared.faults.len();
    let sum = match exact == all {
        true if all == 1 => format!("1 stage matches {lock} byte for byte\n"),
        true => format!("{all} stages match {lock} byte for byte\n"),
        false => format!("{exact} of {} match {lock} byte for byte\n", count(all, "stage")),
    };
    sum + &columns(&rows, "  ")
}

/// An agreement as lines of text.
pub fn says(agreement: &Agreement) -> Vec<String> {
    match agreement {
        Agreement::Exact => vec!["identical, byte for byte".into()],
        Agreement::Near { tolerance, results } => {
            let pair = |p: &Pair| format!("{} {} -> {}", p.name, number(Some(p.old)), number(Some(p.new)));
            let pairs: Vec<String> = results.iter().map(pair).collect();
            vec![format!("results agree within {tolerance} (different classes of machine): {}", pairs.join(", "))]
        }
        Agreement::Unknown => {
            vec!["bytes differ (different classes of machine), and there are no results to compare".into()]
        }
        Agreement::Differs { what } => what.iter().map(|w| format!("DIFFERS: {w}")).collect(),
    }
}
