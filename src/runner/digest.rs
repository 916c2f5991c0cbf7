//! Digests: blake3 of contents. Of a file, of its bytes; of a folder, of its sorted list of (path, length,
//! digest of the bytes). Names outside the folder, times, owners and permissions are no part of it.
//!
//! Files are read and never mapped: of a mapped one that somebody cuts short, the kernel kills whoever reads on.
//!
//! It does not know what is digested, nor does it remember anything (`files` does).

use crate::error::{Error, Result};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Separates folder digests from file digests: no file can be written whose digest is that of a folder.
const TREE_CONTEXT: &str = "erw 2025 digest of a tree, version 1";

/// Above this size one file is hashed by all threads, each taking pieces of this size, which stay in the cache of its core;
/// below, files are spread over the threads.
const LARGE: u64 = 1 << 20;

/// 32 bytes of blake3, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digest of bytes in memory, equal to that of a file holding them.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
    /// Digest of the bytes of one file.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let hash = match bytes > LARGE {
            true => {
                let (left, right) = halves(&file, 0, bytes)?;
                merge_subtrees_root(&left, &right, Mode::Hash)
            }
            false => blake3::Hasher::new().update_reader(file)?.finalize(),
        };
        Ok(Self(*hash.as_bytes()))
    }
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The 64 digits without an allocation.
    pub fn hex(&self) -> impl std::ops::Deref<Target = str> {
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        Hex(hex)
    }
    /// The first 12 digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_string()
    }
}

/// The two halves of a part of a file, as blake3 cuts it, digested beside each other.
fn halves(file: &File, at: u64, bytes: u64) -> io::Result<(ChainingValue, ChainingValue)> {
    let left = left_subtree_len(bytes);
    let (left, right) = rayon::join(|| part(file, at, left), || part(file, at + left, bytes - left));
    Ok((left?, right?))
}

/// A part of a file that is a subtree of its digest.
fn part(file: &File, at: u64, bytes: u64) -> io::Result<ChainingValue> {
    thread_local! {
        static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    if bytes > LARGE {
        let (left, right) = halves(file, at, bytes)?;
        return Ok(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
    PIECE.with_borrow_mut(|piece| {
        piece.resize(bytes as usize, 0);
        file.read_exact_at(piece, at).map_err(cut_short)?;
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(at);
        Ok(hasher.update(piece).finalize_non_root())
    })
}

fn cut_short(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "it was cut short while it was read"),
        _ => e,
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The digits of a digest, which stand in every path of a cache.
struct Hex([u8; 64]);

impl std::ops::Deref for Hex {
    type Target = str;
    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        // Only lower case is written; accepting more would give one object two names.
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let read = || {
            let hex: &[u8; 64] = s.as_bytes().try_into().ok()?;
            let mut bytes = [0; 32];
            for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
                *byte = value(pair[0])? << 4 | value(pair[1])?;
            }
            Some(Self(bytes))
        };
        read().ok_or_else(|| format!("`{s}` is not a digest"))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root; empty when the root itself is a file.
    pub path: PathBuf,
    pub bytes: u64,
    pub digest: Digest,
}

/// A digest and the cheap facts that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub digest: Digest,
    /// Sum over the files.
    pub bytes: u64,
    pub files: u64,
}

/// The digest of a file or folder from its list of files. `is_dir` tells a folder of one file from the file.
pub fn combine(entries: &mut [Entry], is_dir: bool) -> Measured {
    entries.sort_unstable_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    let bytes = entries.iter().map(|e| e.bytes).sum();
    let digest = match entries {
        [only] if !is_dir => only.digest,
        _ => tree_digest(entries),
    };
    Measured { digest, bytes, files: entries.len() as u64 }
}

/// Every field has a fixed width or a length in front, so two lists never give the same stream.
fn tree_digest(sorted: &[Entry]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(TREE_CONTEXT);
    hasher.update(&(sorted.len() as u64).to_le_bytes());
    for entry in sorted {
        let path = entry.path.as_os_str().as_bytes();
        hasher.update(&(path.len() as u64).to_le_bytes()).update(path);
        hasher.update(&entry.bytes.to_le_bytes()).update(&entry.digest.0);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// A file met on a walk.
#[derive(Debug, Clone)]
pub struct Found {
    /// Relative to the root.
    pub path: PathBuf,
    pub metadata: std::fs::Metadata,
}

/// What to do with symbolic links met on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Outside data is often a farm of links: what counts is what they lead to.
    Follow,
    /// An artifact must hold its own bytes, or it changes behind its digest.
    Refuse,
}

/// Every regular file under `root` (or `root` itself) in no particular order. Empty folders do not count.
/// A dangling link, a loop of links, a pipe or a socket is an error that names it.
pub fn walk(root: &Path, links: Links) -> Result<Vec<Found>> {
    let follow = links == Links::Follow;
    // Most artifacts are one file, and there are many of them.
    let metadata = if follow { std::fs::metadata(root) } else { std::fs::symlink_metadata(root) };
    if let Some(metadata) = metadata.ok().filter(std::fs::Metadata::is_file) {
        return Ok(vec![Found { path: PathBuf::new(), metadata }]);
    }
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(root).follow_links(follow).follow_root_links(follow) {
        let entry = entry.map_err(|e| walk_error(root, &e))?;
        let kind = entry.file_type();
        if kind.is_dir() {
            continue;
        }
        if kind.is_symlink() {
            return Err(Error::stage(format!("`{}` is a symbolic link", entry.path().display()))
                .hint("an artifact holds files, not links to them: copy the file"));
        }
        if !kind.is_file() {
            return Err(Error::usage(format!("`{}` is neither a file nor a folder", entry.path().display())));
        }
        let metadata = entry.metadata().map_err(|e| walk_error(root, &e))?;
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_path_buf();
        found.push(Found { path, metadata });
    }
    Ok(found)
}

/// Whether what was walked is a file, not a folder.
pub fn is_file(found: &[Found]) -> bool {
    matches!(found, [only] if only.path.as_os_str().is_empty())
}

fn walk_error(root: &Path, e: &walkdir::Error) -> Error {
    let path = e.path().unwrap_or(root).display();
    match e.loop_ancestor() {
        Some(up) => Error::usage(format!("`{path}` is a link back to `{}`: the folder has no end", up.display())),
        None => {
            let cause = e.io_error().map_or_else(|| e.to_string(), ToString::to_string);
            Error::usage(format!("cannot read `{path}`")).because(cause)
        }
    }
}

/// Digest of an artifact: every byte is read.
pub fn measure(root: &Path) -> Result<Measured> {
    let found = walk(root, Links::Refuse)?;
    let entry = |f: Found| {
        let path = join(root, &f.path);
        let digest = Digest::of_file(&path).map_err(|e| Error::io("read", &path, e))?;
        Ok(Entry { bytes: f.metadata.len(), path: f.path, digest })
    };
    let is_dir = !is_file(&found);
    let mut entries: Vec<Entry> = match is_dir {
        true => found.into_par_iter().map(entry).collect::<Result<_>>()?,
        false => found.into_iter().map(entry).collect::<Result<_>>()?,
    };
    Ok(combine(&mut entries, is_dir))
}

/// `root.join("")` would add a slash and turn a file into a folder.
pub fn join(root: &Path, relative: &Path) -> PathBuf {
    if relative.as_os_str().is_empty() { root.to_path_buf() } else { root.join(relative) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_large_and_a_small_file_hash_like_their_bytes() {
        let dir = dir();
        let large = LARGE as usize;
        for n in [0, 10, large - 1, large, large + 1, large + 12345, 2 * large, 5 * large + 1023, 8 * large] {
            let bytes: Vec<u8> = (0..n).map(|i| (i % 251) as u8).collect();
            let path = dir.path().join("f");
            fs::write(&path, &bytes).unwrap();
            assert_eq!(Digest::of_file(&path).unwrap(), Digest::of_bytes(&bytes));
        }
    }

    #[test]
    fn a_tree_is_its_names_and_bytes() {
        let (a, b) = (dir(), dir());
        for d in [&a, &b] {
            fs::create_dir(d.path().join("sub")).unwrap();
        }
        fs::write(a.path().join("sub/x"), "1").unwrap();
        fs::write(a.path().join("y"), "2").unwrap();
        fs::write(b.path().join("y"), "2").unwrap();
        fs::write(b.path().join("sub/x"), "1").unwrap();
        let first = measure(a.path()).unwrap();
        assert_eq!(first, measure(b.path()).unwrap());
        assert_eq!((first.bytes, first.files), (2, 2));
        fs::rename(b.path().join("y"), b.path().join("z")).unwrap();
        assert_ne!(first.digest, measure(b.path()).unwrap().digest);
    }

    #[test]
    fn boundaries_between_names_and_files_count() {
        let (a, b) = (dir(), dir());
        fs::write(a.path().join("ab"), "c").unwrap();
        fs::write(b.path().join("a"), "bc").unwrap();
        assert_ne!(measure(a.path()).unwrap().digest, measure(b.path()).unwrap().digest);
        fs::write(a.path().join("f"), "").unwrap();
        let with_empty = measure(a.path()).unwrap();
        fs::remove_file(a.path().join("f")).unwrap();
        assert_ne!(with_empty.digest, measure(a.path()).unwrap().digest);
    }

    #[test]
    fn a_folder_of_one_file_is_not_the_file() {
        let dir = dir();
        fs::write(dir.path().join("f"), "1").unwrap();
        let folder = measure(dir.path()).unwrap().digest;
        assert_ne!(folder, measure(&dir.path().join("f")).unwrap().digest);
    }

    #[test]
    fn links_are_followed_outside_and_refused_in_artifacts() {
        let dir = dir();
        fs::write(dir.path().join("f"), "1").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("l")).unwrap();
        assert_eq!(walk(dir.path(), Links::Follow).unwrap().len(), 2);
        assert!(walk(dir.path(), Links::Refuse).unwrap_err().message.contains("symbolic link"));
        std::os::unix::fs::symlink(".", dir.path().join("loop")).unwrap();
        assert!(walk(dir.path(), Links::Follow).unwrap_err().message.contains("has no end"));
    }

    #[test]
    fn only_the_written_form_is_read_back() {
        let digest = Digest::of_bytes(b"x");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!("12".parse::<Digest>().is_err());
    }
}
