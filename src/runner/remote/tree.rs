//! The list of an artifact's files, as it lies in a remote. It is believed only if its digest is the artifact's and if
//! every path stays inside the artifact: others may have written it.

use super::super::digest::{Digest, Entry, Links, Measured, combine, join, walk};
use super::super::store::damaged;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Read by this version only; another format is no tree.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    format: u32,
    pub files: Vec<File>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative to the artifact; empty when the artifact is this file.
    pub path: PathBuf,
    pub bytes: u64,
    pub digest: Digest,
}

impl File {
    /// An artifact that is one file.
    pub fn alone(artifact: &Measured) -> Self {
        Self { path: PathBuf::new(), bytes: artifact.bytes, digest: artifact.digest }
    }
}

impl Tree {
    /// Reads a stored artifact. One that is not what its name says is an error.
    pub fn of(artifact: &Path, expected: &Measured) -> Result<Self> {
        let entry = |path: PathBuf, bytes| {
            let full = join(artifact, &path);
            let digest = Digest::of_file(&full).map_err(|e| Error::io("read", &full, e))?;
            Ok(Entry { path, bytes, digest })
        };
        let found = walk(artifact, Links::Refuse)?;
        let entries = found.into_par_iter().map(|f| entry(f.path, f.metadata.len()));
        let mut entries = entries.collect::<Result<Vec<_>>>()?;
        if combine(&mut entries, artifact.is_dir()) != *expected {
            return Err(damaged(&expected.digest).hint("`erw cache verify` sets it aside"));
        }
        if let Some(odd) = entries.iter().find(|e| e.path.to_str().is_none()) {
            return Err(Error::usage(format!("the name `{}` is no UTF-8", odd.path.display())));
        }
        let files = entries.into_iter().map(|e| File { path: e.path, bytes: e.bytes, digest: e.digest });
        Ok(Self { format: FORMAT, files: files.collect() })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The list in `bytes`, if it is that of the folder `expected`.
    pub fn parse(bytes: &[u8], expected: &Measured) -> Result<Self, &'static str> {
        let tree: Self = serde_json::from_slice(bytes).map_err(|_| "it is no list of files")?;
        if tree.format != FORMAT {
            return Err("its format is of another version");
        }
        check_paths(tree.files.iter().map(|f| f.path.as_path()))?;
        let entry = |f: &File| Entry { path: f.path.clone(), bytes: f.bytes, digest: f.digest };
        let mut entries: Vec<Entry> = tree.files.iter().map(entry).collect();
        if combine(&mut entries, true) != *expected {
            return Err("it is another list of files");
        }
        Ok(tree)
    }
}

/// A list is stored as it is written, or not at all: `a//b` and `a/./b` would become `a/b`, whose digest is another.
fn check_paths<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<(), &'static str> {
    let mut known = BTreeSet::new();
    for path in paths {
        let bytes = path.as_os_str().as_bytes();
        let mut parts = bytes.split(|b| *b == b'/');
        if path.is_absolute() || parts.clone().any(|part| part == b"..") || bytes.is_empty() {
            return Err("a path leads out of the artifact");
        }
        if parts.any(|part| part.is_empty() || part == b"." || part.contains(&0)) {
            return Err("a path is written in another way than paths of files are");
        }
        if !known.insert(path) {
            return Err("it names a file twice");
        }
    }
    let is_folder = |path: &Path| path.ancestors().skip(1).any(|above| known.contains(above));
    if known.iter().any(|path| is_folder(path)) { Err("a path is both a file and a folder") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> (Tree, Measured) {
        let file = |path: &&str| File { path: path.into(), bytes: 1, digest: Digest::of_bytes(b"x") };
        let files: Vec<File> = paths.iter().map(file).collect();
        let mut entries: Vec<Entry> =
            files.iter().map(|f| Entry { path: f.path.clone(), bytes: f.bytes, digest: f.digest }).collect();
        (Tree { format: FORMAT, files }, combine(&mut entries, true))
    }

    #[test]
    fn a_tree_comes_back_and_no_path_leads_out_of_it() {
        let (good, measured) = tree(&["a", "b/c"]);
        assert_eq!(Tree::parse(&good.to_bytes(), &measured), Ok(good));
        let said = |paths: &[&str]| {
            let (tree, measured) = tree(paths);
            Tree::parse(&tree.to_bytes(), &measured).unwrap_err()
        };
        for evil in ["../a", "/a", "a/../../b", "", "..", "a/..", "/", "//a", "a/../b"] {
            assert_eq!(said(&[evil, "x"]), "a path leads out of the artifact", "{evil}");
        }
        // Paths compare by their parts: `a/b` and `a//b` would be one.
        for odd in ["a//b", "a/./b", "./a", "a/", "a/.", ".", "a/b//", "a\0b"] {
            assert_eq!(said(&[odd, "x"]), "a path is written in another way than paths of files are", "{odd}");
            assert_eq!(said(&["a/b", odd]), "a path is written in another way than paths of files are", "{odd}");
        }
        assert_eq!(said(&["a", "b", "a"]), "it names a file twice");
        for both in [["a", "a/b"], ["a/b/c/d", "a/b"], ["a/b", "a"]] {
            assert_eq!(said(&both), "a path is both a file and a folder", "{both:?}");
        }
        let (odd_but_plain, measured) = tree(&["a b", "..a", "a\\b", ".hidden", "a.b/c", "a", "ä"]);
        assert!(Tree::parse(&odd_but_plain.to_bytes(), &measured).is_ok());
        let (other, _) = tree(&["a"]);
        assert_eq!(Tree::parse(&other.to_bytes(), &measured), Err("it is another list of files"));
    }
}
