//! The index of the records: of each, what is asked of all of them, such as which stage it is of
//! and how long it took. Whoever needs more of a record reads that record (`action_cache`). Without
//! it a run that explains one stage would read the records of ten thousand.
//!
//! On disk: a format line, the digest of all that follows, and the entries as JSON, by folder of
//! records. A folder whose modification time is the one that was noted has the same records as
//! then, because records appear by rename; any other is listed, and what is new in it is read. A
//! time within the clock tick of the reading would hide a later change, so it is not noted. An
//! index that is missing, damaged or of another format is made anew; failing to write it costs time
//! and nothing else.
//!
//! An entry is a hint about a record, not a copy to be believed: it decides no hit.

use super::action_cache::{self, Listed, Record, Stamp};
use super::store::Store;
use crate::files::digest::Digest;
use crate::files::disk::{Durability, list, write_file};
use erw_base::error::Result;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const FORMAT: &[u8] = b"erw index 1\n";
/// A folder that changed more recently may change again within the same tick of a clock.
const SETTLED: Duration = Duration::from_secs(2);

/// What is known of a record without reading it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub key: Digest,
    stamp: Stamp,
    pub pipeline: String,
    pub stage: String,
    pub kind: String,
    /// Of a command: the digest of its program and arguments, as in the key.
    pub program: Option<Digest>,
    pub created: String,
    pub seconds: f64,
    /// The attempt had resumed, so its seconds are not those of all the work.
    pub is_resumed: bool,
}

impl Entry {
    fn of(record: &Record, stamp: Stamp) -> Self {
        Self {
            key: record.key().into(),
            stamp,
            pipeline: record.pipeline.clone(),
            stage: record.stage.clone(),
            kind: record.kind.clone(),
            program: record.program().map(|run| Digest::of_bytes(run.as_bytes())),
            created: record.created.clone(),
            seconds: record.seconds,
            is_resumed: record.resumed.is_some(),
        }
    }
}

/// A folder of records.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Folder {
    /// Its modification time in seconds and nanoseconds; none if it had just changed, or has a
    /// damaged record, which may be replaced in place by whoever repairs it.
    modified: Option<(i64, i64)>,
    /// In the order of their keys.
    entries: Vec<Entry>,
}

type Folders = BTreeMap<String, Folder>;

/// An entry for every readable record, in the order of their keys.
///
/// # Errors
/// When a folder of records cannot be listed.
pub fn read(store: &Store) -> Result<Vec<Entry>> {
    let file = store.v1("index");
    let mut old = std::fs::read(&file).ok().and_then(|bytes| parse(&bytes)).unwrap_or_default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let named = |path: PathBuf| Some((path.file_name()?.to_str()?.to_string(), path));
    let listed: Vec<(String, PathBuf)> = list(&store.v1("actions"))?.into_iter().filter_map(named).collect();
    let all: Vec<_> = listed.into_iter().map(|(name, path)| (old.remove(&name), name, path)).collect();
    let is_gone = !old.is_empty();
    let of = |(old, name, path): (Option<Folder>, String, PathBuf)| {
        let (folder, is_new) = folder(&path, old, now)?;
        Ok((name, folder, is_new))
    };
    let all = all.into_par_iter().map(of).collect::<Result<Vec<_>>>()?;
    let is_new = is_gone || all.iter().any(|(.., is_new)| *is_new);
    let folders: Folders = all.into_iter().map(|(name, folder, _)| (name, folder)).collect();
    if let (true, Some(bytes)) = (is_new && store.writable().is_ok(), bytes(&folders)) {
        let _ = write_file(&file, &bytes, Durability::Later);
    }
    Ok(folders.into_values().flat_map(|folder| folder.entries).collect())
}

/// The entries of a folder, and whether they are not those of the index.
fn folder(path: &Path, old: Option<Folder>, now: Duration) -> Result<(Folder, bool)> {
    // Before it is listed: what changes later gives it another time.
    let looks = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_dir);
    let Some(looks) = looks else { return Ok((Folder::default(), old.is_some_and(|old| old != Folder::default()))) };
    let modified = (looks.mtime(), looks.mtime_nsec());
    let old = match old {
        Some(old) if old.modified == Some(modified) => return Ok((old, false)),
        old => old.unwrap_or_default(),
    };
    let known: HashMap<Digest, &Entry> = old.entries.iter().map(|entry| (entry.key, entry)).collect();
    let (mut entries, mut is_whole) = (Vec::new(), true);
    for path in list(path)? {
        let key = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")?.parse().ok());
        let Some(key) = key else { continue };
        let same = known.get(&key).filter(|entry| action_cache::stamp_of(&path) == Some(entry.stamp));
        match same {
            Some(entry) => entries.push((*entry).clone()),
            None => match action_cache::listed(&path) {
                Listed::Record(record, stamp) => entries.push(Entry::of(&record, stamp)),
                Listed::Foreign => {}
                Listed::Damaged => is_whole = false,
            },
        }
    }
    let seconds = u64::try_from(modified.0).unwrap_or(u64::MAX);
    let is_settled = Duration::from_secs(seconds).saturating_add(SETTLED) < now;
    let new = Folder { modified: (is_settled && is_whole).then_some(modified), entries };
    let is_new = new != old;
    Ok((new, is_new))
}

fn bytes(folders: &Folders) -> Option<Vec<u8>> {
    let body = serde_json::to_vec(folders).ok()?;
    Some([FORMAT, Digest::of_bytes(&body).hex().as_bytes(), b"\n", &body].concat())
}

fn parse(bytes: &[u8]) -> Option<Folders> {
    let (check, body) = bytes.strip_prefix(FORMAT)?.split_at_checked(64)?;
    let body = body.strip_prefix(b"\n")?;
    (*check == *Digest::of_bytes(body).hex().as_bytes()).then(|| serde_json::from_slice(body).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::action_cache::write;
    use serde_json::json;

    fn record(stage: &str, seconds: f64) -> Record {
        let text = json!({
            "key_text": format!("erw key 1\nkind k\nparam s {stage}\n"), "pipeline": "p", "stage": stage, "kind": "k",
            "outputs": {}, "results": [], "shown": [], "seconds": seconds, "attempts": 1, "resumed": null,
            "created": "2026-01-31T12:00:00.000Z", "host": "h", "program": "0", "device": "cpu",
        });
        serde_json::from_value(text).unwrap()
    }

    /// Sets the times of all folders of records back, so that they count as settled.
    fn settle(store: &Store) {
        for folder in list(&store.v1("actions")).unwrap() {
            let old = SystemTime::now() - Duration::from_secs(100);
            std::fs::File::open(folder).unwrap().set_modified(old).unwrap();
        }
    }

    fn seconds(store: &Store) -> Vec<(String, f64)> {
        let mut all: Vec<_> = read(store).unwrap().into_iter().map(|e| (e.stage, e.seconds)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    #[test]
    fn the_index_says_what_the_records_say_whatever_becomes_of_either() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let put = |stage: &str, seconds| write(&store, &record(stage, seconds), Durability::Later).unwrap();
        put("a", 1.0);
        put("b", 2.0);
        let both = [("a".to_string(), 1.0), ("b".to_string(), 2.0)];
        assert_eq!(seconds(&store), both);
        settle(&store);
        assert_eq!(seconds(&store), both);
        let index = store.v1("index");
        let good = std::fs::read(&index).unwrap();
        // Nothing is read that is not new: a record that is damaged in place is still in the index.
        let file = store.action_file(&record("a", 1.0).key());
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, "rot").unwrap();
        assert_eq!(seconds(&store), both);
        std::fs::write(&file, text).unwrap();
        // A replaced record, a new one, a removed one.
        put("a", 3.0);
        put("c", 4.0);
        assert_eq!(seconds(&store), [("a".into(), 3.0), ("b".into(), 2.0), ("c".into(), 4.0)]);
        std::fs::remove_file(store.action_file(&record("b", 2.0).key())).unwrap();
        let left = [("a".to_string(), 3.0), ("c".to_string(), 4.0)];
        assert_eq!(seconds(&store), left);
        // Any damage, and an index of before.
        settle(&store);
        seconds(&store);
        let now = std::fs::read(&index).unwrap();
        for i in (0..now.len()).step_by(7) {
            let mut bad = now.clone();
            bad[i] ^= 1;
            std::fs::write(&index, bad).unwrap();
            assert_eq!(seconds(&store), left, "byte {i}");
        }
        std::fs::write(&index, &now[..now.len() / 2]).unwrap();
        assert_eq!(seconds(&store), left);
        std::fs::write(&index, good).unwrap();
        assert_eq!(seconds(&store), left);
    }

    #[test]
    fn a_folder_that_just_changed_is_listed_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        write(&store, &record("a", 1.0), Durability::Later).unwrap();
        assert_eq!(seconds(&store).len(), 1);
        let folder = store.action_file(&record("a", 1.0).key()).parent().unwrap().to_path_buf();
        let before = std::fs::metadata(&folder).unwrap().modified().unwrap();
        write(&store, &record("a", 2.0), Durability::Later).unwrap();
        // As if both had been written within one tick of the clock.
        std::fs::File::open(&folder).unwrap().set_modified(before).unwrap();
        assert_eq!(seconds(&store), [("a".to_string(), 2.0)]);
    }
}
