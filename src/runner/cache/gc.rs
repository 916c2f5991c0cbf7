//! Makes room in the cache folder. What goes is decided on action records: an artifact that a record or a tag names
//! stays, any other goes. Which records go is a matter of rules: out of reach, unused for long, too much altogether.
//!
//! A sweep is planned first and carried out then, so a dry run says exactly what a wet one does. Nobody else may have
//! the store open: what a running stage uses cannot go.

use super::action_cache::{self, Record};
use super::inventory::{objects, size};
use super::key::Key;
use super::store::{self, KEPT, Store};
use super::tags;
use crate::files::digest::Digest;
use crate::files::disk;
use erw_base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Which records may go.
#[derive(Debug, Default)]
pub struct Rules {
    /// These stay. Alone, every other record goes; with an age or a size, others go only by those.
    pub keep: Option<InUse>,
    /// Not used for so long.
    pub older_than: Option<Duration>,
    /// Bytes of artifacts that may stay; what was used least recently goes first.
    pub max_size: Option<u64>,
    /// Checkpoints of unfinished actions go too, and results that were not believed.
    pub checkpoints: bool,
}

/// What is in use.
#[derive(Debug, Default)]
pub struct InUse {
    pub keys: BTreeSet<Key>,
    /// Of stages whose keys cannot be told today (an input is not cached, a source is not there) nothing is thrown away.
    pub stages: BTreeSet<String>,
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemovalReason {
    /// Nothing that is to be kept uses it.
    Unused,
    Old,
    TooMuch,
    /// A record that is not what was written.
    Damaged,
    /// An artifact that no record names.
    Unnamed,
}

/// A record that goes.
#[derive(Debug)]
pub struct Gone {
    pub key: Key,
    /// `pipeline/stage`.
    pub of: String,
    /// Since its last use.
    pub age: Duration,
    pub why: RemovalReason,
}

/// What a sweep removes.
#[derive(Debug, Default)]
pub struct Sweep {
    pub records: Vec<Gone>,
    pub damaged: Vec<PathBuf>,
    /// With their bytes.
    pub artifacts: Vec<(PathBuf, u64, RemovalReason)>,
    pub work_dirs: Vec<PathBuf>,
    /// Logs, locks, listings, leftovers, what is in quarantine.
    rest: Vec<PathBuf>,
    /// Of everything.
    pub bytes: u64,
    /// Work folders that hold checkpoints of unfinished actions and therefore stay.
    pub resumable: Vec<PathBuf>,
}

/// A record and what the rules ask about it.
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

/// What would go by these rules. `store` must have been opened alone.
pub fn plan(store: &Store, rules: &Rules) -> Result<Sweep> {
    let (records, damaged) = action_cache::all(store)?;
    let tags = tags::all(store)?;
    let tagged_keys: BTreeSet<Key> = tags.iter().flat_map(|(_, t)| t.keys.iter().map(|k| Key::from(*k))).collect();
    let tagged: BTreeSet<Digest> = tags.iter().flat_map(|(_, t)| t.artifacts.iter().copied()).collect();
    let mut candidates: Vec<Candidate> = records.into_iter().map(|record| candidate(store, record)).collect();
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
    judge(rules, &mut candidates, &objects, &tagged);

    let mut sweep = Sweep { damaged, ..Sweep::default() };
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
    let gone = candidates.iter().filter_map(|c| Some((c, c.fate?)));
    sweep.records = gone
        .map(|(c, why)| Gone { key: c.key, of: format!("{}/{}", c.record.pipeline, c.record.stage), age: c.age, why })
        .collect();
    sweep.records.sort_by_key(|g| (g.why, std::cmp::Reverse(g.age)));
    Ok(sweep)
}

/// Records go before what they name, so a kill leaves no record without its outputs.
pub fn carry_out(store: &Store, sweep: &Sweep) -> Result<()> {
    let records = sweep.records.iter().map(|g| store.action_file(&g.key)).chain(sweep.damaged.iter().cloned());
    let artifacts = sweep.artifacts.iter().map(|(path, ..)| path.clone());
    // Memos rest on records, and a run writes its own anew; they are no loss worth telling of.
    let memos = vec![store.v1("memos")];
    let all = memos
        .into_iter()
        .chain(records)
        .chain(artifacts)
        .chain(sweep.work_dirs.iter().cloned())
        .chain(sweep.rest.iter().cloned());
    let remove = |path: PathBuf| disk::remove(&path).map_err(|e| Error::io("remove", &path, e));
    all.into_iter().try_for_each(remove)
}

fn candidate(store: &Store, record: Record) -> Candidate {
    let key = record.key();
    let used = std::fs::metadata(store.action_file(&key)).and_then(|m| m.modified());
    // A time in the future is a clock put right since: just used.
    let age = used.ok().and_then(|t| SystemTime::now().duration_since(t).ok()).unwrap_or_default();
    Candidate { record, key, age, fate: None, safe: false }
}

fn judge(rules: &Rules, all: &mut [Candidate], objects: &[(PathBuf, Option<Digest>, u64)], tagged: &BTreeSet<Digest>) {
    let by_reach_alone = rules.keep.is_some() && rules.older_than.is_none() && rules.max_size.is_none();
    for c in all.iter_mut().filter(|c| !c.safe) {
        c.fate = match rules.older_than {
            _ if by_reach_alone => Some(RemovalReason::Unused),
            Some(limit) if c.age > limit => Some(RemovalReason::Old),
            _ => None,
        };
    }
    if let Some(limit) = rules.max_size {
        let bytes = objects.iter().filter_map(|(_, digest, bytes)| Some(((*digest)?, *bytes))).collect();
        fit(limit, all, &bytes, tagged);
    }
}

/// Gives up the least recently used until the rest fits.
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
    // Whose artifacts all stay, for others, frees nothing by going.
    for i in given_up {
        if all[i].names().all(|d| users.get(&d).is_some_and(|n| *n > 0)) {
            all[i].fate = None;
        }
    }
}

/// Work folders of finished actions and empty ones go; those with checkpoints only if asked; those under way never.
fn work_dirs(store: &Store, kept: &[&Record], checkpoints: bool, sweep: &mut Sweep) -> Result<()> {
    let done: BTreeSet<String> = kept.iter().map(|r| r.key().to_string()).collect();
    for path in disk::list(&store.v1("work"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(digest) = name.parse::<Digest>() else { continue };
        // Held by a worker whose runner is gone.
        let Some(_lock) = store.try_lock(&digest.into())? else { continue };
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

/// What goes with the records, and what killed processes left.
fn rest(store: &Store, kept: &[&Record]) -> Result<Vec<PathBuf>> {
    let keys: BTreeSet<String> = kept.iter().map(|r| r.key().to_string()).collect();
    let sources: BTreeSet<PathBuf> = kept.iter().flat_map(|r| sources(store, r)).collect();
    let named = |p: &PathBuf| p.file_name().is_some_and(|n| keys.contains(n.to_string_lossy().as_ref()));
    let mut all: Vec<PathBuf> = disk::list(&store.v1("logs"))?.into_iter().filter(|p| !named(p)).collect();
    all.extend(disk::list(&store.v1("trees"))?.into_iter().filter(|p| !sources.contains(p)));
    for folder in ["quarantine", "pulls", "verify"] {
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

/// Half-written by a killed process.
fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-"))
}

/// Listings of the outside folders that a record's action read.
fn sources(store: &Store, record: &Record) -> Vec<PathBuf> {
    record.sources().values().map(|digest| store.tree_file(digest)).collect()
}

/// Locks that nobody holds. No run is there to open one meanwhile: the store is open to us alone.
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
