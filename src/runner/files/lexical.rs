//! Names of places: two paths lead to one place if these say the same of both, also where nothing is (yet, or any more).
//! Does not know what is there.

use super::digest::join;
use std::path::{Component, Path, PathBuf};

/// One name for a place, whether something is there or not.
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

/// An absolute name that keeps its links; `..` behind a link is where that leads, as for the system.
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

/// `..` is taken back by name: what it leads to need not exist any more.
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
