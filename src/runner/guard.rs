//! Notices when a program writes to its inputs. Artifacts are read-only, which stops most writers but not root, nor one
//! that replaces a file; and other stages of the run take an artifact that was read once as sound.
//!
//! Sizes, modification times and inode numbers are compared, not contents, so it costs nothing worth saving. It does
//! not know what the artifacts are.

use super::digest::{Digest, Links, walk};
use super::store::Store;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Path, bytes, modification time, inode.
type Stamps = Vec<(PathBuf, u64, (i64, i64), u64)>;

/// How the artifacts looked.
#[derive(Debug)]
pub struct Watch(BTreeMap<Digest, Option<Stamps>>);

impl Watch {
    pub fn over<'d>(store: &Store, artifacts: impl Iterator<Item = &'d Digest>) -> Self {
        Self(artifacts.map(|d| (*d, stamps(store, d))).collect())
    }

    /// Those that look otherwise now.
    pub fn changed(&self, store: &Store) -> Vec<Digest> {
        self.0.iter().filter(|(d, before)| stamps(store, d) != **before).map(|(d, _)| *d).collect()
    }
}

/// `None` for what cannot be listed.
fn stamps(store: &Store, digest: &Digest) -> Option<Stamps> {
    let found = walk(&store.object(digest), Links::Refuse).ok()?;
    let stamp = |m: &std::fs::Metadata| (m.len(), (m.mtime(), m.mtime_nsec()), m.ino());
    let mut all: Stamps = found
        .into_iter()
        .map(|f| {
            let (bytes, mtime, inode) = stamp(&f.metadata);
            (f.path, bytes, mtime, inode)
        })
        .collect();
    all.sort();
    Some(all)
}
