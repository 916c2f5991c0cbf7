//! Detects programs that write to artifacts. Artifacts are read-only, which stops most writers but
//! not root, nor a program that replaces a file; and other stages of the run trust an artifact that
//! was verified once.
//!
//! Compares sizes, times and inode numbers, not contents, so it costs almost nothing. Does not know
//! what the artifacts are.

use crate::cache::store::{Store, Tampering};
use crate::files::digest::{Digest, Kind, Links, WalkEntry, walk};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Artifacts that one thread takes at a time: most stages have fewer, and most artifacts are small.
pub const AT_A_TIME: usize = 64;

/// The stats of an artifact's files, sorted by path.
type FileStats = Vec<FileStat>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FileStat {
    path: PathBuf,
    kind: Kind,
    bytes: u64,
    modified: (i64, i64),
    inode: u64,
    /// A further hard link changes it too, which is not a write; but nobody can set it back.
    changed: (i64, i64),
}

impl FileStat {
    fn of(path: PathBuf, kind: Kind, metadata: &Metadata) -> Self {
        Self {
            path,
            kind,
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_written(&self, before: &Self) -> bool {
        (&self.kind, self.bytes, self.modified, self.inode)
            != (&before.kind, before.bytes, before.modified, before.inode)
    }
}

/// The stats of an action's inputs before it ran.
#[derive(Debug)]
pub struct InputSnapshot(BTreeMap<Digest, FileStats>);

impl InputSnapshot {
    /// Whether the artifact at this path of the store is part of it.
    pub fn holds(&self, path: &Path) -> bool {
        named(path).is_some_and(|digest| self.0.contains_key(&digest))
    }

    /// The inputs that were written to.
    pub fn changed(&self, store: &Store) -> Vec<Tampering> {
        let change = |(digest, before): (&Digest, &FileStats)| {
            let Some(now) = looks(store, digest) else {
                return Some(Tampering { digest: *digest, altered: vec![PathBuf::new()], added: vec![], kept: vec![] });
            };
            let by_path =
                |looks: &'_ FileStats| looks.iter().map(|l| (l.path.clone(), l.clone())).collect::<BTreeMap<_, _>>();
            let (old, new) = (by_path(before), by_path(&now));
            // A folder that was empty still exists when something is added to it.
            let is_gone = |l: &&FileStat| match new.get(&l.path) {
                Some(now) => now.is_written(l),
                None => l.kind != Kind::Folder || !store.object(digest).join(&l.path).is_dir(),
            };
            let altered: Vec<PathBuf> = before.iter().filter(is_gone).map(|l| l.path.clone()).collect();
            let added: Vec<PathBuf> = new.into_keys().filter(|path| !old.contains_key(path)).collect();
            let is_same = altered.is_empty() && added.is_empty();
            (!is_same).then(|| Tampering { digest: *digest, altered, added, kept: old.into_keys().collect() })
        };
        let all: Vec<(&Digest, &FileStats)> = self.0.iter().collect();
        all.into_par_iter().with_min_len(AT_A_TIME).filter_map(change).collect()
    }
}

/// Artifacts that were verified or created in this run, with their stats at that time.
#[derive(Debug, Default)]
pub struct IntegrityCheck(Mutex<HashMap<Digest, FileStats>>);

impl IntegrityCheck {
    /// Whether the artifact matches its digest. It is read only if it was not yet, or if its stats
    /// changed. Unreadable counts as damaged, since it cannot be used.
    pub fn is_sound(&self, store: &Store, digest: &Digest) -> bool {
        // Twice, if reading it removed files that others had dropped into it.
        for _ in 0..2 {
            let now = looks(store, digest);
            if now.is_some() && self.known().get(digest) == now.as_ref() {
                return true;
            }
            if let Some(now) = now.as_ref().filter(|now| is_sound_file(store, digest, now)) {
                self.known().insert(*digest, now.clone());
                return true;
            }
            if store.examine(digest).is_none() {
                return false;
            }
            now.into_iter().for_each(|now| drop(self.known().insert(*digest, now)));
        }
        true
    }

    /// A snapshot of those among these artifacts of the store that [`is_sound`](Self::is_sound) would
    /// have to read. Who has read them elsewhere passes it to [`verified`](Self::verified).
    pub fn unverified<'p>(&self, store: &Store, artifacts: impl Iterator<Item = &'p Path>) -> InputSnapshot {
        let stats = |digest: Digest| Some((digest, looks(store, &digest).unwrap_or_default()));
        let all: BTreeMap<Digest, FileStats> = artifacts.filter_map(named).filter_map(stats).collect();
        let known = self.known();
        InputSnapshot(all.into_iter().filter(|(digest, now)| known.get(digest) != Some(now)).collect())
    }

    /// Records artifacts that were read since this snapshot and matched their digests.
    pub fn verified(&self, snapshot: InputSnapshot) {
        self.known().extend(snapshot.0);
    }

    /// Takes a snapshot of artifacts that were just verified.
    pub fn watch<'d>(&self, artifacts: impl Iterator<Item = &'d Digest>) -> InputSnapshot {
        let known = self.known();
        InputSnapshot(artifacts.filter_map(|digest| Some((*digest, known.get(digest)?.clone()))).collect())
    }

    /// Records an artifact that was just published with this digest.
    pub fn note(&self, store: &Store, digest: &Digest) {
        if let Some(now) = looks(store, digest) {
            self.known().insert(*digest, now);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, FileStats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The artifact at this path of the store.
pub fn named(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Whether the artifact is a single file that matches its digest and still has these stats. Most are,
/// and a stage may have thousands: its path is looked up once less than by `examine`.
fn is_sound_file(store: &Store, digest: &Digest, now: &FileStats) -> bool {
    let [FileStat { path, kind: Kind::File, .. }] = &now[..] else { return false };
    let Ok(file) = File::open(store.object(digest)) else { return false };
    path.as_os_str().is_empty()
        && Digest::of_open_file(&file).is_ok_and(|is| is == *digest)
        && file.metadata().is_ok_and(|after| FileStat::of(PathBuf::new(), Kind::File, &after) == now[0])
}

/// `None` if it cannot be listed.
fn looks(store: &Store, digest: &Digest) -> Option<FileStats> {
    let found = walk(&store.object(digest), Links::Keep).ok()?;
    let look = |f: WalkEntry| match f.kind {
        // A folder's stats change even when a file is added and removed again.
        Kind::Folder => FileStat { path: f.path, kind: f.kind, bytes: 0, modified: (0, 0), inode: 0, changed: (0, 0) },
        kind => FileStat::of(f.path, kind, &f.metadata),
    };
    let mut all: FileStats = found.into_iter().map(look).collect();
    all.sort();
    Some(all)
}
