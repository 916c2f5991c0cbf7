//! Looking after the cache folder: what lies in it, is it whole, what may go.
//!
//! Nothing here runs a stage. What may go is decided by action records alone: an artifact that a record names
//! stays, any other goes.

use super::actions::{self, Record};
use super::digest::{Digest, Links, measure, walk};
use super::key::Key;
use super::store::{self, Store};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// An artifact of the store.
#[derive(Debug)]
pub struct Artifact {
    pub digest: Digest,
    /// `None`: no record names it.
    pub ty: Option<String>,
    pub bytes: u64,
    pub files: u64,
    /// `pipeline/stage` of those whose records name it.
    pub made_by: Vec<String>,
}

/// Everything in the store, largest first.
pub fn artifacts(store: &Store) -> Result<Vec<Artifact>> {
    let (records, _) = actions::all(store)?;
    let mut makers: BTreeMap<Digest, (String, Vec<String>)> = BTreeMap::new();
    for record in &records {
        for output in record.outputs.values() {
            let entry = makers.entry(output.measured.digest).or_insert_with(|| (output.ty.clone(), vec![]));
            entry.1.push(format!("{}/{}", record.pipeline, record.stage));
        }
    }
    let mut all = Vec::new();
    for (path, digest) in objects(store)? {
        let Some(digest) = digest else { continue };
        let (bytes, files) = size(&path);
        let (ty, made_by) = makers.remove(&digest).map_or((None, vec![]), |(ty, by)| (Some(ty), by));
        all.push(Artifact { digest, ty, bytes, files, made_by });
    }
    all.sort_by_key(|a| std::cmp::Reverse(a.bytes));
    Ok(all)
}

/// Paths in the store and the digests they are named by; `None` for what does not belong there.
fn objects(store: &Store) -> Result<Vec<(PathBuf, Option<Digest>)>> {
    let named = |path: PathBuf| {
        let digest = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
        (path, digest)
    };
    Ok(store.bucket("store")?.into_iter().map(named).collect())
}

/// Bytes and files below a path, as far as can be read.
fn size(path: &Path) -> (u64, u64) {
    let found = walk(path, Links::Refuse).unwrap_or_default();
    (found.iter().map(|f| f.metadata.len()).sum(), found.len() as u64)
}

/// What a full reading of the cache found.
#[derive(Debug, Default)]
pub struct Verified {
    pub artifacts: usize,
    pub bytes: u64,
    /// What was damaged and is now in quarantine, in words.
    pub damaged: Vec<String>,
}

/// Reads every artifact and record; what is not what its name says goes to quarantine.
pub fn verify(store: &Store, mut checked: impl FnMut(&Digest)) -> Result<Verified> {
    let (records, damaged) = actions::all(store)?;
    let mut verified = Verified::default();
    for path in damaged {
        store.quarantine_path(&path)?;
        verified.damaged.push(format!("action record `{}`", path.display()));
    }
    for (path, digest) in objects(store)? {
        let found = measure(&path).ok();
        if let (Some(digest), Some(found)) = (digest, found)
            && digest == found.digest
        {
            verified.artifacts += 1;
            verified.bytes += found.bytes;
            checked(&digest);
            continue;
        }
        // Gone meanwhile is not damage.
        if std::fs::symlink_metadata(&path).is_err() {
            continue;
        }
        store.quarantine_path(&path)?;
        let by = digest.map(|d| users(&records, &d)).unwrap_or_default();
        verified.damaged.push(format!("artifact `{}`{by}", path.display()));
    }
    Ok(verified)
}

fn users(records: &[Record], digest: &Digest) -> String {
    let names = |r: &&Record| r.outputs.values().any(|o| o.measured.digest == *digest);
    let list: Vec<String> = records.iter().filter(names).map(|r| format!("{}/{}", r.pipeline, r.stage)).collect();
    if list.is_empty() { String::new() } else { format!(" of {}", list.join(", ")) }
}

/// Which records stay.
#[derive(Debug)]
pub enum Keep {
    Everything,
    /// Those with these keys, and those of these stage names: of stages whose keys cannot be told today (an input
    /// is not cached, a source is not there) nothing is thrown away.
    Only {
        keys: BTreeSet<Key>,
        stages: BTreeSet<String>,
    },
}

/// What gc removed, or would.
#[derive(Debug, Default)]
pub struct Removed {
    pub records: usize,
    pub artifacts: usize,
    pub work_dirs: usize,
    pub bytes: u64,
    /// Work folders that hold checkpoints of unfinished actions and therefore stayed.
    pub resumable: Vec<PathBuf>,
}

/// Removes what no record needs. `store` must have been opened alone. Records go before what they name, so a
/// kill leaves no record without its outputs.
pub fn collect(store: &Store, keep: &Keep, checkpoints: bool, dry_run: bool) -> Result<Removed> {
    let (records, damaged) = actions::all(store)?;
    let (kept, dropped): (Vec<Record>, Vec<Record>) = records.into_iter().partition(|r| match keep {
        Keep::Everything => true,
        Keep::Only { keys, stages } => keys.contains(&r.key()) || stages.contains(&r.stage),
    });
    let mut removed = Removed { records: dropped.len() + damaged.len(), ..Removed::default() };
    let drop_all = |paths: Vec<PathBuf>| paths.iter().try_for_each(|p| drop_one(p, dry_run));
    drop_all(dropped.iter().map(|r| store.action_file(&r.key())).chain(damaged).collect())?;

    let named: BTreeSet<Digest> = kept.iter().flat_map(|r| r.outputs.values().map(|o| o.measured.digest)).collect();
    let loose = objects(store)?.into_iter().filter(|(_, digest)| digest.is_none_or(|d| !named.contains(&d)));
    for (path, _) in loose {
        removed.artifacts += 1;
        removed.bytes += size(&path).0;
        drop_one(&path, dry_run)?;
    }
    work_dirs(store, &kept, checkpoints, dry_run, &mut removed)?;
    for path in store::list(&store.v1("quarantine"))? {
        removed.bytes += size(&path).0;
        drop_one(&path, dry_run)?;
    }
    let sources: BTreeSet<PathBuf> = kept.iter().flat_map(|r| sources(store, r)).collect();
    drop_all(store::list(&store.v1("trees"))?.into_iter().filter(|p| !sources.contains(p)).collect())?;
    // They rest on records; a run writes its own anew.
    drop_all(store::list(&store.v1("memos"))?)?;
    drop_all(leftovers(store)?)?;
    drop_all(idle_locks(store)?)?;
    Ok(removed)
}

/// Work folders of finished actions and empty ones go; those with checkpoints only if asked; those under way never.
fn work_dirs(store: &Store, kept: &[Record], checkpoints: bool, dry_run: bool, removed: &mut Removed) -> Result<()> {
    let done: BTreeSet<String> = kept.iter().map(|r| r.key().to_string()).collect();
    for path in store::list(&store.v1("work"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(digest) = name.parse::<Digest>() else {
            // Of a killed run.
            if name.starts_with(store::SPARE) {
                drop_one(&path, dry_run)?;
            }
            continue;
        };
        // Held by a worker whose runner is gone.
        let Some(_lock) = store.try_lock(&digest.into())? else { continue };
        let has_checkpoint = !store::list(&path.join("checkpoints"))?.is_empty();
        if has_checkpoint && !checkpoints && !done.contains(&name) {
            removed.resumable.push(path);
            continue;
        }
        removed.work_dirs += 1;
        removed.bytes += size(&path).0;
        drop_one(&path, dry_run)?;
    }
    Ok(())
}

/// Listings of the outside folders that a record's action read.
fn sources(store: &Store, record: &Record) -> Vec<PathBuf> {
    record.sources().values().map(|digest| store.tree_file(digest)).collect()
}

/// Half-written files of killed processes.
fn leftovers(store: &Store) -> Result<Vec<PathBuf>> {
    let mut all = store.bucket("actions")?;
    for folder in ["files", "trees"] {
        all.extend(store::list(&store.v1(folder))?);
    }
    let is_temporary = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-"));
    Ok(all.into_iter().filter(is_temporary).collect())
}

/// Locks that nobody holds. No run is there to open one meanwhile: the store is open to us alone.
fn idle_locks(store: &Store) -> Result<Vec<PathBuf>> {
    let mut idle = Vec::new();
    for path in store::list(&store.v1("locks"))? {
        let digest = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<Digest>().ok());
        if let Some(digest) = digest
            && store.try_lock(&digest.into())?.is_some()
        {
            idle.push(path);
        }
    }
    Ok(idle)
}

fn drop_one(path: &Path, dry_run: bool) -> Result<()> {
    if dry_run {
        return Ok(());
    }
    store::remove(path).map_err(|e| Error::io("remove", path, e))
}
