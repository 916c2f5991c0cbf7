//! Notices when a program writes to artifacts. They are read-only, which stops most writers but not root, nor one
//! that replaces a file; and other stages of the run take an artifact that was read once as sound.
//!
//! Sizes, times and inode numbers are compared, not contents, so it costs nothing worth saving. It does
//! not know what the artifacts are.

use super::digest::{Digest, Links, Measured, measure, walk};
use super::store::Store;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// How the files of an artifact look, sorted by path.
type Looks = Vec<Look>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Look {
    path: PathBuf,
    bytes: u64,
    modified: (i64, i64),
    inode: u64,
    /// Not so after a further hard link, which is no writing; but nobody can set it back.
    changed: (i64, i64),
}

impl Look {
    fn is_written(&self, before: &Self) -> bool {
        (&self.path, self.bytes, self.modified, self.inode)
            != (&before.path, before.bytes, before.modified, before.inode)
    }
}

/// How the inputs of an action looked before it ran.
#[derive(Debug)]
pub struct Watch(BTreeMap<Digest, Looks>);

impl Watch {
    /// Those that were written to.
    pub fn changed(&self, store: &Store) -> Vec<Digest> {
        let same = |now: &Looks, before: &Looks| {
            now.len() == before.len() && !now.iter().zip(before).any(|(now, before)| now.is_written(before))
        };
        let is_same = |digest: &Digest, before: &Looks| looks(store, digest).is_some_and(|now| same(&now, before));
        self.0.iter().filter(|(digest, before)| !is_same(digest, before)).map(|(digest, _)| *digest).collect()
    }
}

/// Artifacts that were read and found whole, or made, in this run, and how they looked then.
#[derive(Debug, Default)]
pub struct Sound(Mutex<HashMap<Digest, Looks>>);

impl Sound {
    /// Is the artifact what its name says? It is read only if it was not yet, or looks otherwise than then. Unreadable is
    /// as bad as altered: what cannot be read cannot be used.
    pub fn is_sound(&self, store: &Store, digest: &Digest) -> bool {
        let now = looks(store, digest);
        if now.is_some() && self.known().get(digest) == now.as_ref() {
            return true;
        }
        let found: Option<Measured> = measure(&store.object(digest)).ok();
        let sound = found.is_some_and(|m| m.digest == *digest);
        if let (true, Some(now)) = (sound, now) {
            self.known().insert(*digest, now);
        }
        sound
    }

    /// Watches artifacts that were just found sound, from how they looked then.
    pub fn watch<'d>(&self, artifacts: impl Iterator<Item = &'d Digest>) -> Watch {
        let known = self.known();
        Watch(artifacts.filter_map(|digest| Some((*digest, known.get(digest)?.clone()))).collect())
    }

    /// Just published with this digest.
    pub fn note(&self, store: &Store, digest: &Digest) {
        if let Some(now) = looks(store, digest) {
            self.known().insert(*digest, now);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Looks>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` for what cannot be listed.
fn looks(store: &Store, digest: &Digest) -> Option<Looks> {
    let found = walk(&store.object(digest), Links::Refuse).ok()?;
    let look = |f: super::digest::Found| Look {
        bytes: f.metadata.len(),
        modified: (f.metadata.mtime(), f.metadata.mtime_nsec()),
        inode: f.metadata.ino(),
        changed: (f.metadata.ctime(), f.metadata.ctime_nsec()),
        path: f.path,
    };
    let mut all: Looks = found.into_iter().map(look).collect();
    all.sort();
    Some(all)
}
