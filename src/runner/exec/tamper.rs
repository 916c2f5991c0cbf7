//! Notices when a program writes to artifacts. They are read-only, which stops most writers but not root, nor one
//! that replaces a file; and other stages of the run take an artifact that was read once as sound.
//!
//! Sizes, times and inode numbers are compared, not contents, so it costs nothing worth saving. It does
//! not know what the artifacts are.

use crate::cache::store::{Store, Tampering};
use crate::files::digest::{Digest, Kind, Links, walk};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// How the files of an artifact look, sorted by path.
type FileStats = Vec<FileStat>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FileStat {
    path: PathBuf,
    kind: Kind,
    bytes: u64,
    modified: (i64, i64),
    inode: u64,
    /// Not so after a further hard link, which is no writing; but nobody can set it back.
    changed: (i64, i64),
}

impl FileStat {
    fn is_written(&self, before: &Self) -> bool {
        (&self.kind, self.bytes, self.modified, self.inode)
            != (&before.kind, before.bytes, before.modified, before.inode)
    }
}

/// How the inputs of an action looked before it ran.
#[derive(Debug)]
pub struct InputSnapshot(BTreeMap<Digest, FileStats>);

impl InputSnapshot {
    /// Those that were written to.
    pub fn changed(&self, store: &Store) -> Vec<Tampering> {
        let change = |(digest, before): (&Digest, &FileStats)| {
            let Some(now) = looks(store, digest) else {
                return Some(Tampering { digest: *digest, altered: vec![PathBuf::new()], added: vec![], kept: vec![] });
            };
            let by_path =
                |looks: &'_ FileStats| looks.iter().map(|l| (l.path.clone(), l.clone())).collect::<BTreeMap<_, _>>();
            let (old, new) = (by_path(before), by_path(&now));
            // A folder that was empty is still there when something is put into it.
            let is_gone = |l: &&FileStat| match new.get(&l.path) {
                Some(now) => now.is_written(l),
                None => l.kind != Kind::Folder || !store.object(digest).join(&l.path).is_dir(),
            };
            let altered: Vec<PathBuf> = before.iter().filter(is_gone).map(|l| l.path.clone()).collect();
            let added: Vec<PathBuf> = new.into_keys().filter(|path| !old.contains_key(path)).collect();
            let is_same = altered.is_empty() && added.is_empty();
            (!is_same).then(|| Tampering { digest: *digest, altered, added, kept: old.into_keys().collect() })
        };
        self.0.iter().filter_map(change).collect()
    }
}

/// Artifacts that were read and found whole, or made, in this run, and how they looked then.
#[derive(Debug, Default)]
pub struct IntegrityCheck(Mutex<HashMap<Digest, FileStats>>);

impl IntegrityCheck {
    /// Is the artifact what its name says? It is read only if it was not yet, or looks otherwise than then. Unreadable is
    /// as bad as altered: what cannot be read cannot be used.
    pub fn is_sound(&self, store: &Store, digest: &Digest) -> bool {
        // Twice where reading it removed what others had dropped into it.
        for _ in 0..2 {
            let now = looks(store, digest);
            if now.is_some() && self.known().get(digest) == now.as_ref() {
                return true;
            }
            if store.examine(digest).is_none() {
                return false;
            }
            now.into_iter().for_each(|now| drop(self.known().insert(*digest, now)));
        }
        true
    }

    /// Watches artifacts that were just found sound, from how they looked then.
    pub fn watch<'d>(&self, artifacts: impl Iterator<Item = &'d Digest>) -> InputSnapshot {
        let known = self.known();
        InputSnapshot(artifacts.filter_map(|digest| Some((*digest, known.get(digest)?.clone()))).collect())
    }

    /// Just published with this digest.
    pub fn note(&self, store: &Store, digest: &Digest) {
        if let Some(now) = looks(store, digest) {
            self.known().insert(*digest, now);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, FileStats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` for what cannot be listed.
fn looks(store: &Store, digest: &Digest) -> Option<FileStats> {
    let found = walk(&store.object(digest), Links::Keep).ok()?;
    let look = |f: crate::files::digest::WalkEntry| match f.kind {
        // A folder is written to by whoever puts something into it and takes it away.
        Kind::Folder => FileStat { path: f.path, kind: f.kind, bytes: 0, modified: (0, 0), inode: 0, changed: (0, 0) },
        kind => FileStat {
            kind,
            bytes: f.metadata.len(),
            modified: (f.metadata.mtime(), f.metadata.mtime_nsec()),
            inode: f.metadata.ino(),
            changed: (f.metadata.ctime(), f.metadata.ctime_nsec()),
            path: f.path,
        },
    };
    let mut all: FileStats = found.into_iter().map(look).collect();
    all.sort();
    Some(all)
}
