//! Lists and verifies the contents of the cache folder: which artifacts, who made them, are they
//! intact. Removes nothing; damaged files are moved to quarantine.

use super::action_cache::{self, Record};
use super::store::{Presence, Store, refuse_unreadable};
use super::tags;
use crate::files::digest::{Digest, Links, Measured, walk};
use erw_base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// An artifact in the store.
#[derive(Debug)]
pub struct Artifact {
    pub digest: Digest,
    /// `None` if no record names it.
    pub ty: Option<String>,
    pub bytes: u64,
    pub files: u64,
    pub makers: BTreeSet<Maker>,
}

/// A stage whose record names an artifact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Maker {
    pub pipeline: String,
    pub stage: String,
    pub kind: String,
}

impl Maker {
    fn of(record: &Record) -> Self {
        Self { pipeline: record.pipeline.clone(), stage: record.stage.clone(), kind: record.kind.clone() }
    }
}

impl std::fmt::Display for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pipeline, self.stage)
    }
}

/// All artifacts, largest first.
pub fn artifacts(store: &Store) -> Result<Vec<Artifact>> {
    let (records, _) = action_cache::all(store)?;
    let mut makers: BTreeMap<Digest, (String, BTreeSet<Maker>)> = BTreeMap::new();
    for record in &records {
        for output in record.outputs.values() {
            let entry = makers.entry(output.measured.digest).or_insert_with(|| (output.ty.clone(), BTreeSet::new()));
            entry.1.insert(Maker::of(record));
        }
    }
    let mut all = Vec::new();
    for (path, digest) in objects(store)? {
        let Some(digest) = digest else { continue };
        let (bytes, files) = size(&path);
        let (ty, makers) = makers.remove(&digest).map_or((None, BTreeSet::new()), |(ty, by)| (Some(ty), by));
        all.push(Artifact { digest, ty, bytes, files, makers });
    }
    all.sort_by_key(|a| (std::cmp::Reverse(a.bytes), a.digest));
    Ok(all)
}

/// Paths in the store with the digest in their name; `None` for files that do not belong there.
pub fn objects(store: &Store) -> Result<Vec<(PathBuf, Option<Digest>)>> {
    let named = |path: PathBuf| {
        let digest = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
        (path, digest)
    };
    Ok(store.bucket("store")?.into_iter().map(named).collect())
}

/// Bytes and files below a path, as far as they can be read.
pub fn size(path: &Path) -> (u64, u64) {
    let found = walk(path, Links::Keep).unwrap_or_default();
    (found.iter().map(|f| f.metadata.len()).sum(), found.len() as u64)
}

/// A shorter prefix of a digest is taken for a name.
const SHORTEST: usize = 6;

/// Whether this could be the prefix of a digest.
pub fn looks_like_digest(text: &str) -> bool {
    (SHORTEST..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The stored artifact whose digest has this prefix.
pub fn find(store: &Store, prefix: &str) -> Result<Digest> {
    the_one(objects(store)?.into_iter().filter_map(|(_, digest)| digest), prefix)
}

/// The only digest with this prefix.
///
/// # Errors
/// When there is none or more than one.
pub fn the_one(all: impl Iterator<Item = Digest>, prefix: &str) -> Result<Digest> {
    let found: BTreeSet<Digest> = all.filter(|d| d.to_string().starts_with(prefix)).collect();
    let found: Vec<Digest> = found.into_iter().collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Error::usage(format!("no artifact `{prefix}` in the cache")).hint("run `erw cache ls` to list them")),
        several => {
            let names: Vec<String> = several.iter().take(4).map(|d| format!("`{}`", d.short())).collect();
            let error = Error::usage(format!("{} artifacts begin with `{prefix}`", several.len()));
            Err(error.hint(format!("such as {}", names.join(", "))))
        }
    }
}

/// Records that name an artifact.
pub fn records_of(store: &Store, digest: &Digest) -> Result<Vec<Record>> {
    let names = |r: &Record| r.outputs.values().any(|o| o.measured.digest == *digest);
    Ok(action_cache::all(store)?.0.into_iter().filter(names).collect())
}

/// Result of reading the whole cache.
#[derive(Debug, Default)]
pub struct Verified {
    pub artifacts: usize,
    pub bytes: u64,
    pub records: usize,
    /// Descriptions of the damaged files, which are now in quarantine.
    pub damaged: Vec<String>,
    /// Stages whose record names a missing artifact: not damage, but they run again.
    pub incomplete: Vec<String>,
}

/// Reads every artifact, record and tag; moves what does not match its name to quarantine.
pub fn verify(store: &Store) -> Result<Verified> {
    // Files that this user may not read are neither intact nor damaged.
    ["actions", "tags", "store"].iter().try_for_each(|folder| refuse_unreadable(&store.v1(folder)))?;
    let (records, damaged) = action_cache::all(store)?;
    let mut verified = Verified { records: records.len(), ..Verified::default() };
    for path in damaged {
        store.quarantine_path(&path)?;
        verified.damaged.push(format!("action record `{}`", path.display()));
    }
    for path in tags::damaged(store)? {
        store.quarantine_path(&path)?;
        verified.damaged.push(format!("tag `{}`", path.display()));
    }
    for (path, digest) in objects(store)? {
        let found = digest.filter(|d| path == store.object(d)).and_then(|d| store.examine(&d));
        if let Some((found, _)) = found {
            verified.artifacts += 1;
            verified.bytes += found.bytes;
            continue;
        }
        // Removed meanwhile: not damage.
        if std::fs::symlink_metadata(&path).is_err() {
            continue;
        }
        store.quarantine_path(&path)?;
        let by = digest.map(|d| users(&records, &d)).unwrap_or_default();
        verified.damaged.push(format!("artifact `{}`{by}", path.display()));
    }
    let lost = |m: &Measured| store.look(m) != Presence::Whole;
    let incomplete = records.iter().filter(|r| r.outputs.values().any(|o| lost(&o.measured)));
    verified.incomplete = incomplete.map(|r| Maker::of(r).to_string()).collect();
    Ok(verified)
}

fn users(records: &[Record], digest: &Digest) -> String {
    let names = |r: &&Record| r.outputs.values().any(|o| o.measured.digest == *digest);
    let list: Vec<String> = records.iter().filter(names).map(|r| Maker::of(r).to_string()).collect();
    if list.is_empty() { String::new() } else { format!(" of {}", list.join(", ")) }
}
