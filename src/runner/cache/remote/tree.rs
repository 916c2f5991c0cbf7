//! The list of an artifact's entries, as stored in a remote. It is trusted only if its digest is
//! the artifact's and every path and link stays inside the artifact, because others may have
//! written it.
//!
//! Format 1 lists plain files with UTF-8 names, so that versions that know nothing else can read
//! it. Any other entry makes it format 2: each entry has its kind, and names are encoded by
//! [`name`].

use crate::cache::store::damaged;
use crate::files::digest::{Digest, Kind, Measured, TreeEntry, combine, entries, named};
use crate::files::links;
use crate::text::path_text;
use erw_base::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const PLAIN: u32 = 1;
const KINDS: u32 = 2;

/// The entries of an artifact. An artifact that is a single plain file has no list: it is a blob
/// under its own digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub entries: Vec<TreeEntry>,
    /// A folder, not a file.
    pub is_dir: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    format: u32,
    files: Vec<Line>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// Relative to the artifact; empty when the artifact is this file.
    path: String,
    bytes: u64,
    digest: Digest,
    #[serde(default, skip_serializing_if = "Sort::is_file")]
    kind: Sort,
    /// The target of a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sort {
    #[default]
    File,
    Program,
    Folder,
    Link,
}

impl Sort {
    fn is_file(&self) -> bool {
        *self == Self::File
    }
}

impl Line {
    fn of(entry: &TreeEntry, path: String) -> Self {
        let (kind, target) = match &entry.kind {
            Kind::File => (Sort::File, None),
            Kind::Program => (Sort::Program, None),
            Kind::Folder => (Sort::Folder, None),
            Kind::Link(to) => (Sort::Link, Some(path_text::text(to))),
        };
        Self { path, bytes: entry.bytes, digest: entry.digest, kind, target }
    }

    fn entry(self, format: u32) -> Option<TreeEntry> {
        let path = if format == PLAIN { self.path.into() } else { path_text::path(&self.path)? };
        let kind = match (self.kind, self.target) {
            (Sort::File, None) => Kind::File,
            (Sort::Program, None) => Kind::Program,
            (Sort::Folder, None) => Kind::Folder,
            (Sort::Link, Some(to)) => Kind::Link(path_text::path(&to)?),
            _ => return None,
        };
        let is_fit = format != PLAIN || kind == Kind::File;
        is_fit.then_some(TreeEntry { path, kind, bytes: self.bytes, digest: self.digest })
    }
}

/// The entry of an artifact that is one plain file.
pub fn alone(artifact: &Measured) -> TreeEntry {
    TreeEntry::file(PathBuf::new(), artifact.bytes, artifact.digest)
}

impl Tree {
    /// Reads a stored artifact. One that does not match its digest is an error.
    pub fn of(artifact: &Path, expected: &Measured) -> Result<Self> {
        let damaged = || damaged(&expected.digest).hint("run `erw cache verify` to move it to quarantine");
        let whole = named(entries(artifact)?, &expected.digest).filter(|(measured, _)| measured == expected);
        let (_, entries) = whole.ok_or_else(damaged)?;
        Ok(Self { entries, is_dir: artifact.is_dir() })
    }

    /// The list; `None` for a single plain file.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let plain = self.entries.iter().map(|e| e.path.to_str().filter(|_| e.kind == Kind::File));
        let files = match plain.collect::<Option<Vec<&str>>>() {
            Some(_) if !self.is_dir => return None,
            Some(paths) => {
                let lines = self.entries.iter().zip(paths).map(|(entry, path)| Line::of(entry, path.into()));
                List { format: PLAIN, files: lines.collect() }
            }
            None => {
                let lines = self.entries.iter().map(|entry| Line::of(entry, path_text::text(&entry.path)));
                List { format: KINDS, files: lines.collect() }
            }
        };
        serde_json::to_vec(&files).ok()
    }

    /// The list in `bytes`, if it is that of the artifact `expected`.
    pub fn parse(bytes: &[u8], expected: &Measured) -> Result<Self, &'static str> {
        let list: List = serde_json::from_slice(bytes).map_err(|_| "it is not a list of files")?;
        let format = list.format;
        if ![PLAIN, KINDS].contains(&format) {
            return Err("its format version is unknown");
        }
        let entries = list.files.into_iter().map(|line| line.entry(format)).collect::<Option<Vec<_>>>();
        let mut entries = entries.ok_or("it is not a list of files")?;
        // A single executable file is a list with one entry without a name.
        let is_dir =
            !matches!(entries.as_slice(), [TreeEntry { path, kind: Kind::Program, .. }] if path.as_os_str().is_empty());
        if is_dir {
            check_paths(&entries)?;
        }
        if combine(&mut entries, is_dir) != *expected {
            return Err("it is the list of another artifact");
        }
        Ok(Self { entries, is_dir })
    }
}

/// Checks that paths are normalized, since `a//b` and `a/./b` would become `a/b` with another
/// digest; that nothing lies below a file; and that no link leads out.
fn check_paths(entries: &[TreeEntry]) -> Result<(), &'static str> {
    let mut known: BTreeSet<&Path> = BTreeSet::new();
    for TreeEntry { path, .. } in entries {
        let bytes = path.as_os_str().as_bytes();
        let mut parts = bytes.split(|b| *b == b'/');
        if path.is_absolute() || parts.clone().any(|part| part == b"..") || bytes.is_empty() {
            return Err("a path leads out of the artifact");
        }
        if parts.any(|part| part.is_empty() || part == b"." || part.contains(&0)) {
            return Err("a path is not normalized");
        }
        if !known.insert(path) {
            return Err("it names a file twice");
        }
    }
    if known.iter().any(|path| path.ancestors().skip(1).any(|above| known.contains(above))) {
        return Err("a path is both a file and a folder");
    }
    let links = entries.iter().filter_map(|e| match &e.kind {
        Kind::Link(to) => Some((e.path.as_path(), to.as_path())),
        _ => None,
    });
    if links::first_escaping(links).is_some() { Err("a link leads out of the artifact") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> TreeEntry {
        let (bytes, digest) = match &kind {
            Kind::Link(to) => (to.as_os_str().len() as u64, Digest::of_bytes(to.as_os_str().as_encoded_bytes())),
            Kind::Folder => (0, Digest::of_bytes(b"")),
            _ => (1, Digest::of_bytes(b"x")),
        };
        TreeEntry { path: path.into(), kind, bytes, digest }
    }

    fn tree(mut entries: Vec<TreeEntry>) -> (Tree, Measured) {
        let is_dir = !entries[0].path.as_os_str().is_empty() || entries[0].kind == Kind::File;
        let measured = combine(&mut entries, is_dir);
        (Tree { entries, is_dir }, measured)
    }

    fn files(paths: &[&str]) -> (Tree, Measured) {
        tree(paths.iter().map(|path| entry(path, Kind::File)).collect())
    }

    #[test]
    fn a_tree_comes_back_and_no_path_leads_out_of_it() {
        let (good, measured) = files(&["a", "b/c"]);
        assert_eq!(Tree::parse(&good.to_bytes().unwrap(), &measured), Ok(good));
        let said = |paths: &[&str]| {
            let (tree, measured) = files(paths);
            Tree::parse(&tree.to_bytes().unwrap(), &measured).unwrap_err()
        };
        for evil in ["../a", "/a", "a/../../b", "", "..", "a/..", "/", "//a", "a/../b"] {
            assert_eq!(said(&[evil, "x"]), "a path leads out of the artifact", "{evil}");
        }
        // Paths compare by components: `a/b` and `a//b` would be equal.
        for odd in ["a//b", "a/./b", "./a", "a/", "a/.", ".", "a/b//", "a\0b"] {
            assert_eq!(said(&[odd, "x"]), "a path is not normalized", "{odd}");
            assert_eq!(said(&["a/b", odd]), "a path is not normalized", "{odd}");
        }
        assert_eq!(said(&["a", "b", "a"]), "it names a file twice");
        for both in [["a", "a/b"], ["a/b/c/d", "a/b"], ["a/b", "a"], ["x/y", "x"]] {
            assert_eq!(said(&both), "a path is both a file and a folder", "{both:?}");
        }
        let (odd_but_plain, measured) = files(&["a b", "..a", "a\\b", ".hidden", "a.b/c", "a", "ä"]);
        assert!(Tree::parse(&odd_but_plain.to_bytes().unwrap(), &measured).is_ok());
        let (other, _) = files(&["a"]);
        assert_eq!(Tree::parse(&other.to_bytes().unwrap(), &measured), Err("it is the list of another artifact"));
    }

    #[test]
    fn every_kind_of_entry_and_name_comes_back() {
        let mut all = [
            entry("a", Kind::Program),
            entry("d/e", Kind::Folder),
            entry("l", Kind::Link("d/../a".into())),
            entry("x", Kind::File),
        ];
        all[3].path = std::ffi::OsStr::from_bytes(b"\xff\\").into();
        for some in [&all[..], &all[..1], &all[1..2], &all[2..3], &all[3..]] {
            let (tree, measured) = tree(some.to_vec());
            assert_eq!(Tree::parse(&tree.to_bytes().unwrap(), &measured), Ok(tree));
        }
        let (program, measured) = tree(vec![entry("", Kind::Program)]);
        assert_eq!(Tree::parse(&program.to_bytes().unwrap(), &measured), Ok(program));
        assert_eq!(Tree { entries: vec![entry("", Kind::File)], is_dir: false }.to_bytes(), None);
    }

    #[test]
    fn links_that_lead_out_and_what_lies_in_links_are_refused() {
        let link = |path: &str, to: &str| entry(path, Kind::Link(to.into()));
        let out = "a link leads out of the artifact";
        for (evil, why) in [
            (vec![link("a", "/etc")], out),
            (vec![link("a", "..")], out),
            (vec![link("d", "."), link("e", "d/../../x")], out),
            (
                vec![link("d", "e"), entry("d/f", Kind::File), entry("e/f", Kind::File)],
                "a path is both a file and a folder",
            ),
            (vec![entry("", Kind::Folder), entry("x", Kind::File)], "a path leads out of the artifact"),
        ] {
            let (tree, measured) = tree(evil);
            let read = Tree::parse(&tree.to_bytes().unwrap(), &measured);
            assert_eq!(read, Err(why), "{tree:?}");
        }
    }

    /// As versions wrote it that knew plain files only.
    #[test]
    fn lists_of_plain_files_are_as_they_were() {
        let (good, measured) = files(&["a", "b/c"]);
        let x = Digest::of_bytes(b"x");
        let old = format!(
            r#"{{"format":1,"files":[{{"path":"a","bytes":1,"digest":"{x}"}},{{"path":"b/c","bytes":1,"digest":"{x}"}}]}}"#
        );
        assert_eq!(String::from_utf8(good.to_bytes().unwrap()).unwrap(), old);
        assert_eq!(Tree::parse(old.as_bytes(), &measured), Ok(good));
    }
}
