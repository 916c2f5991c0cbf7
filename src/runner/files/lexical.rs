//! Canonical names of paths: two paths with equal names lead to the same place, even if nothing is
//! there (yet, or any more). Does not know what is there.

use super::digest::join;
use std::path::{Component, Path, PathBuf};

/// The canonical name of a path, which need not exist.
pub fn place(path: &Path) -> PathBuf {
    let absolute = || std::path::absolute(path).map_or_else(|_| path.to_path_buf(), |p| plain(&p));
    path.canonicalize().unwrap_or_else(|_| {
        let absolute = absolute();
        let there = absolute.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
        there.map_or_else(
            || absolute.clone(),
            |(above, real)| join(&real, absolute.strip_prefix(above).unwrap_or(&absolute)),
        )
    })
}

/// An absolute path that keeps its links; `..` after a link is resolved through the link, as the
/// system does.
pub fn logical(path: &Path) -> PathBuf {
    let mut logical = PathBuf::new();
    for part in std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).components() {
        match part {
            Component::ParentDir => {
                if logical.is_symlink() {
                    logical = place(&logical);
                }
                logical.pop();
            }
            Component::CurDir => {}
            part => logical.push(part),
        }
    }
    logical
}

/// Resolves `..` by name only: what it leads to may not exist any more.
pub fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}
