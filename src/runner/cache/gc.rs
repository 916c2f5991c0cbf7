//! Garbage collection of the cache folder. Decisions are made about action records: an artifact
//! that a record or a tag names stays, any other is removed. Rules decide which records go:
//! unreachable, unused for long, or beyond the size limit.
//!
//! A collection is planned first and then carried out, so a dry run reports exactly what a real one
//! removes. The store must be open exclusively: nothing that a running stage uses may be removed.

use super::action_cache::{self, Record};
use super::inventory::{objects, size};
use super::key::Key;
use super::store::{self, KEPT, PLACED, Store, USE_SLACK};
use super::tags;
use crate::files::digest::Digest;
use crate::files::disk;
use erw_base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Which records may be removed.
#[derive(Debug, Default)]
pub struct Rules {
    /// Records to keep. Given alone, every other record is removed; with an age or a size, others
    /// are removed only by those.
    pub keep: Option<InUse>,
    /// Remove records not used for this long.
    pub older_than: Option<Duration>,
    /// Bytes of artifacts to keep; the least recently used are removed first.
    pub max_size: Option<u64>,
    /// Also remove checkpoints of unfinished actions and rejected results.
    pub checkpoints: bool,
    /// Last uses that were noted elsewhere than in the records.
    pub used: HashMap<Key, SystemTime>,
}

/// The records that pipelines use.
#[derive(Debug, Default)]
pub struct InUse {
    pub keys: BTreeSet<Key>,
    /// Stages whose keys cannot be computed now (an input is not cached, a source is missing).
    /// Nothing of theirs is removed.
    pub stages: BTreeSet<String>,
}

/// Why something is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemovalReason {
    /// Nothing in use refers to it.
    Unused,
    Old,
    TooMuch,
    /// A corrupt record.
    Damaged,
    /// An artifact that no record names.
    Unnamed,
}

/// A record to be removed.
#[derive(Debug)]
pub struct Gone {
    pub key: Key,
    /// `pipeline/stage`.
    pub of: String,
    /// Time since its last use.
    pub age: Duration,
    pub why: RemovalReason,
}

/// A planned garbage collection: everything it removes.
#[derive(Debug, Default)]
pub struct Collection {
    pub records: Vec<Gone>,
    pub damaged: Vec<PathBuf>,
    /// With their sizes in bytes.
    pub artifacts: Vec<(PathBuf, u64, RemovalReason)>,
    pub work_dirs: Vec<PathBuf>,
    /// Logs, locks, listings, temporary files, quarantine.
    rest: Vec<PathBuf>,
    /// Total size.
    pub bytes: u64,
    /// Work folders that are kept because they have checkpoints of unfinished actions.
    pub resumable: Vec<PathBuf>,
    /// Last uses of records that stay, to be noted in them.
    used: Vec<(PathBuf, SystemTime)>,
}

/// A record with the facts that the rules need.
struct Candidate {
    record: Record,
    key: Key,
    age: Duration,
    fate: Option<RemovalReason>,
    safe: bool,
}

impl Candidate {
    fn names(&self) -> impl Iterator<Item = Digest> {
        self.record.outputs.values().map(|o| o.measured.digest)
    }
}

/// The plan under these rules. `store` must be open exclusively.
pub fn plan(store: &Store, rules: &Rules) -> Result<Collection> {
    let (records, damaged) = action_cache::all(store)?;
    let tags = tags::all(store)?;
    let tagged_keys: BTreeSet<Key> = tags.iter().flat_map(|(_, t)| t.keys.iter().map(|k| Key::from(*k))).collect();
    let tagged: BTreeSet<Digest> = tags.iter().flat_map(|(_, t)| t.artifacts.iter().copied()).collect();
    let mut candidates: Vec<Candidate> = records.into_iter().map(|record| candidate(store, rules, record)).collect();
    for c in &mut candidates {
        let kept = |k: &InUse| k.keys.contains(&c.key) || k.stages.contains(&c.record.stage);
        c.safe = tagged_keys.contains(&c.key)
            || c.names().any(|d| tagged.contains(&d))
            || rules.keep.as_ref().is_some_and(kept);
    }
    let objects: Vec<(PathBuf, Option<Digest>, u64)> = objects(store)?
        .into_iter()
        .map(|(path, digest)| (size(&path).0, path, digest))
        .map(|(n, p, d)| (p, d, n))
        .collect();
    select(rules, &mut candidates, &objects, &tagged);

    let mut sweep = Collection { damaged, ..Collection::default() };
    let mut named = tagged;
    let mut freed: BTreeMap<Digest, RemovalReason> = BTreeMap::new();
    for c in &candidates {
        match c.fate {
            None => named.extend(c.names()),
            Some(why) => freed.extend(c.names().map(|d| (d, why))),
        }
    }
    for (path, digest, bytes) in objects {
        if digest.is_some_and(|d| named.contains(&d)) {
            continue;
        }
        let why = digest.and_then(|d| freed.get(&d).copied()).unwrap_or(RemovalReason::Unnamed);
        sweep.bytes += bytes;
        sweep.artifacts.push((path, bytes, why));
    }
    let kept: Vec<&Record> = candidates.iter().filter(|c| c.fate.is_none()).map(|c| &c.record).collect();
    work_dirs(store, &kept, rules.checkpoints, &mut sweep)?;
    sweep.rest = rest(store, &kept)?;
    sweep.bytes += sweep.rest.iter().map(|p| size(p).0).sum::<u64>();
    let stays = candidates.iter().filter(|c| c.fate.is_none()).filter_map(|c| Some((c.key, *rules.used.get(&c.key)?)));
    sweep.used = stays.map(|(key, at)| (store.action_file(&key), at)).collect();
    let gone = candidates.iter().filter_map(|c| Some((c, c.fate?)));
    sweep.records = gone
        .map(|(c, why)| Gone { key: c.key, of: format!("{}/{}", c.record.pipeline, c.record.stage), age: c.age, why })
        .collect();
    sweep.records.sort_by_key(|g| (g.why, std::cmp::Reverse(g.age)));
    Ok(sweep)
}

/// Removes records before the artifacts they name, so that no record outlives its outputs if the
/// process is killed.
pub fn carry_out(store: &Store, sweep: &Collection) -> Result<()> {
    let records = sweep.records.iter().map(|g| store.action_file(&g.key)).chain(sweep.damaged.iter().cloned());
    let artifacts = sweep.artifacts.iter().map(|(path, ..)| path.clone());
    // Up-to-date checks depend on records and are recreated by a run; their loss is not worth
    // reporting. When they were used is not lost with them.
    for (path, at) in &sweep.used {
        let is_later = |file: &File| file.metadata().and_then(|m| m.modified()).is_ok_and(|noted| noted < *at);
        // A file of another user keeps its time.
        let _ = File::open(path).and_then(|file| if is_later(&file) { file.set_modified(*at) } else { Ok(()) });
    }
    let checks = vec![store.v1("memos")];
    let all = checks
        .into_iter()
        .chain(records)
        .chain(artifacts)
        .chain(sweep.work_dirs.iter().cloned())
        .chain(sweep.rest.iter().cloned());
    let remove = |path: PathBuf| disk::remove(&path).map_err(|e| Error::io("remove", &path, e));
    all.into_iter().try_for_each(remove)
}

fn candidate(store: &Store, rules: &Rules, record: Record) -> Candidate {
    let key = record.key();
    let used = std::fs::metadata(store.action_file(&key)).and_then(|m| m.modified()).ok();
    let used = used.max(rules.used.get(&key).copied());
    // A time in the future means the clock was set back since: just used.
    let age = used.and_then(|t| SystemTime::now().duration_since(t).ok()).unwrap_or_default();
    Candidate { record, key, age, fate: None, safe: false }
}

fn select(rules: &Rules, all: &mut [Candidate], objects: &[(PathBuf, Option<Digest>, u64)], tagged: &BTreeSet<Digest>) {
    let by_reach_alone = rules.keep.is_some() && rules.older_than.is_none() && rules.max_size.is_none();
    for c in all.iter_mut().filter(|c| !c.safe) {
        c.fate = match rules.older_than {
            _ if by_reach_alone => Some(RemovalReason::Unused),
            Some(limit) if c.age > limit.saturating_add(USE_SLACK) => Some(RemovalReason::Old),
            _ => None,
        };
    }
    if let Some(limit) = rules.max_size {
        let bytes = objects.iter().filter_map(|(_, digest, bytes)| Some(((*digest)?, *bytes))).collect();
        fit(limit, all, &bytes, tagged);
    }
}

/// Removes the least recently used records until the rest fits.
fn fit(limit: u64, all: &mut [Candidate], bytes: &BTreeMap<Digest, u64>, tagged: &BTreeSet<Digest>) {
    let mut users: BTreeMap<Digest, usize> = tagged.iter().map(|d| (*d, 1)).collect();
    for c in all.iter().filter(|c| c.fate.is_none()) {
        c.names().for_each(|d| *users.entry(d).or_default() += 1);
    }
    let of = |d: &Digest| bytes.get(d).copied().unwrap_or(0);
    let mut total: u64 = users.keys().map(of).sum();
    let mut order: Vec<usize> = (0..all.len()).filter(|&i| all[i].fate.is_none() && !all[i].safe).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(all[i].age));
    let mut given_up = vec![];
    for i in order {
        if total <= limit {
            break;
        }
        for digest in all[i].names() {
            let left = users.entry(digest).or_default();
            *left -= 1;
            total -= if *left == 0 { of(&digest) } else { 0 };
        }
        all[i].fate = Some(RemovalReason::TooMuch);
        given_up.push(i);
    }
    // Removing a record frees nothing if others keep all its artifacts.
    for i in given_up {
        if all[i].names().all(|d| users.get(&d).is_some_and(|n| *n > 0)) {
            all[i].fate = None;
        }
    }
}

/// Removes work folders that are empty or of finished actions, those with checkpoints only if
/// requested, those in use never.
fn work_dirs(store: &Store, kept: &[&Record], checkpoints: bool, sweep: &mut Collection) -> Result<()> {
    let done: BTreeSet<String> = kept.iter().map(|r| r.key().to_string()).collect();
    for path in disk::list(&store.v1("work"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(digest) = name.parse::<Digest>() else { continue };
        // Held by a worker whose runner is gone.
        let Some(_lock) = store.try_lock(&digest.into())? else { continue };
        // Its job may be waiting, and will look for its files.
        if path.join(PLACED).exists() {
            continue;
        }
        let holds = |what: &str| Ok::<_, Error>(!disk::list(&path.join(what))?.is_empty());
        let has_checkpoint = holds("checkpoints")? || holds(KEPT)?;
        if has_checkpoint && !checkpoints && !done.contains(&name) {
            sweep.resumable.push(path);
            continue;
        }
        sweep.bytes += size(&path).0;
        sweep.work_dirs.push(path);
    }
    Ok(())
}

/// Files that belong to removed records, and leftovers of killed processes.
fn rest(store: &Store, kept: &[&Record]) -> Result<Vec<PathBuf>> {
    let keys: BTreeSet<String> = kept.iter().map(|r| r.key().to_string()).collect();
    let sources: BTreeSet<PathBuf> = kept.iter().flat_map(|r| sources(store, r)).collect();
    let named = |p: &PathBuf| p.file_name().is_some_and(|n| keys.contains(n.to_string_lossy().as_ref()));
    let mut all: Vec<PathBuf> = disk::list(&store.v1("logs"))?.into_iter().filter(|p| !named(p)).collect();
    all.extend(disk::list(&store.v1("trees"))?.into_iter().filter(|p| !sources.contains(p)));
    for folder in ["quarantine", "pulls", "verify", "site"] {
        all.extend(disk::list(&store.v1(folder))?);
    }
    let is_spare = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(store::SPARE));
    all.extend(disk::list(&store.v1("work"))?.into_iter().filter(is_spare));
    let mut places = store.bucket("actions")?;
    for folder in ["files", "tags"] {
        places.extend(disk::list(&store.v1(folder))?);
    }
    all.extend(places.into_iter().filter(|p| is_temporary(p)));
    all.extend(idle_locks(store)?);
    Ok(all)
}

/// Left half-written by a killed process.
fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-"))
}

/// Listings of the source folders that a record's action read.
fn sources(store: &Store, record: &Record) -> Vec<PathBuf> {
    record.sources().values().map(|digest| store.tree_file(digest)).collect()
}

/// Lock files that nobody holds. No run can open one meanwhile, because the store is open
/// exclusively.
fn idle_locks(store: &Store) -> Result<Vec<PathBuf>> {
    let mut idle = Vec::new();
    for path in disk::list(&store.v1("locks"))? {
        let digest = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<Digest>().ok());
        if let Some(digest) = digest
            && store.try_lock(&digest.into())?.is_some()
        {
            idle.push(path);
        }
    }
    Ok(idle)
}
