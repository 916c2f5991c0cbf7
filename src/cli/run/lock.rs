//! `erw run --lock` and `--locked`: what is said about the lock file of a pipeline.

use crate::cli::common::{columns, print};
use crate::report::table::near;
use crate::report::text::{count, number};
use erw_base::error::{Error, Result};
use erw_runner::cache::action_cache::{self, Lookup, Record, check_whole};
use erw_runner::cache::key::Key;
use erw_runner::cache::store::Store;
use erw_runner::event::StageEnd;
use erw_runner::files::digest::Digest;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::pipeline::targets::named;
use erw_runner::plan::CacheChecker;
use erw_runner::repro::compare::{Agreement, Pair};
use erw_runner::repro::lockfile::{Compared, Lock, Mismatch, path};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Reads the lock and holds the keys of the selected stages against it, before anything runs.
pub fn before(pipeline: &Pipeline, selected: &[StageId], cache: &Path) -> Result<Lock> {
    let lock = Lock::read(&path(&pipeline.file))?;
    let store = Store::open(cache)?;
    let checker = CacheChecker::new(pipeline, &store, BTreeSet::new());
    let faults = lock.keys(&checker, selected)?;
    if faults.is_empty() { Ok(lock) } else { Err(error(pipeline, &faults, "is not the one that is locked")) }
}

/// Holds what was made against the lock; `quiet` leaves standard output to others.
pub fn after(lock: &Lock, pipeline: &Pipeline, ends: &[StageEnd], cache: &Path, quiet: bool) -> Result<()> {
    let store = Store::open(cache)?;
    let compared = lock.compare(&store, pipeline, &records(pipeline, ends, &store)?)?;
    if !quiet {
        print(&text(&compared, &near(&path(&pipeline.file))))?;
    }
    let made = "made something else than is locked";
    if compared.faults.is_empty() { Ok(()) } else { Err(error(pipeline, &compared.faults, made)) }
}

/// Writes the lock of a run that made everything.
pub fn write(pipeline: &Pipeline, ends: &[StageEnd], cache: &Path, quiet: bool) -> Result<()> {
    let store = Store::open(cache)?;
    let records = records(pipeline, ends, &store)?;
    let file = path(&pipeline.file);
    Lock::of(&store, pipeline, &records)?.write(&file)?;
    if quiet { Ok(()) } else { print(&format!("{} locks {}\n", near(&file), count(records.len(), "stage"))) }
}

/// Read whole: what nobody used in this run was looked at by its size only, and a lock is about every byte.
fn records(pipeline: &Pipeline, ends: &[StageEnd], store: &Store) -> Result<BTreeMap<StageId, Record>> {
    let mut records = BTreeMap::new();
    for end in ends {
        let key = end.key.as_ref().and_then(|k| k.parse::<Digest>().ok()).map(Key::from);
        let (Some(key), Some(id)) = (key, named(pipeline, &end.stage).first().copied()) else { continue };
        if let Lookup::Hit(record) = action_cache::lookup(store, &key)? {
            check_whole(store, &record)?;
            records.insert(id, *record);
        }
    }
    Ok(records)
}

fn error(pipeline: &Pipeline, faults: &[Mismatch], what: &str) -> Error {
    let file = pipeline.file.display();
    let names: Vec<String> = faults.iter().map(|f| format!("`{}`", f.stage)).collect();
    let (noun, what) = match names.len() {
        1 => ("stage", what.to_string()),
        _ => ("stages", what.replace("is not the one that is locked", "are not those that are locked")),
    };
    let error = Error::stage(format!("{noun} {} {what} in `{}`", names.join(", "), near(&path(&pipeline.file))));
    let error = faults.iter().fold(error, |e, f| e.because(format!("{}: {}", f.stage, f.what.join("\n"))));
    let stage = &faults[0].stage;
    error
        .hint(format!("`erw why {file} {stage}` tells what the cache knows of it"))
        .hint(format!("if it is meant: `erw run {file} --lock` writes the lock anew"))
}

/// What was compared how.
fn text(compared: &Compared, lock: &str) -> String {
    let mut rows: Vec<Vec<String>> = vec![];
    for (stage, agreement) in &compared.others {
        rows.extend(says(agreement).into_iter().map(|line| vec![stage.clone(), line]));
    }
    rows.extend(compared.dependent.iter().map(|s| vec![s.clone(), "not compared: made of what differs".into()]));
    let exact = compared.exact.len();
    let all = exact + compared.others.len() + compared.dependent.len() + compared.faults.len();
    let sum = match exact == all {
        true => format!("{} as locked in {lock}, byte for byte\n", count(all, "stage")),
        false => format!("{exact} of {} as locked in {lock}, byte for byte\n", count(all, "stage")),
    };
    sum + &columns(&rows, "  ")
}

/// An agreement in words, by line.
pub fn says(agreement: &Agreement) -> Vec<String> {
    match agreement {
        Agreement::Exact => vec!["the same, byte for byte".into()],
        Agreement::Near { tolerance, results } => {
            let pair = |p: &Pair| format!("{} {} -> {}", p.name, number(Some(p.old)), number(Some(p.new)));
            let pairs: Vec<String> = results.iter().map(pair).collect();
            vec![format!("results within {tolerance}, as not made on one class of machine: {}", pairs.join(", "))]
        }
        Agreement::Unknown => vec!["other bytes, not made on one class of machine, and no results to compare".into()],
        Agreement::Differs { what } => what.iter().map(|w| format!("DIFFERS: {w}")).collect(),
    }
}
