//! Digests: blake3 of contents. For a file, of its bytes; for a folder, of its sorted list of
//! entries.
//!
//! The contents of an artifact, here and everywhere else (store, remote, export, lock file,
//! verify), are:
//! - files, by name and bytes;
//! - which of them are executable by their owner; no other permission, no time, no owner;
//! - symbolic links that are relative and stay inside, by their text, whether the target exists or
//!   not;
//! - empty folders. Any other folder is implied by its contents.
//!
//! A list of plain files is digested as in version 1. A list with any other entry, or a single
//! executable file (a list of one entry without a name), includes the kind of each entry (version
//! 2).
//!
//! Source data counts by the names and bytes of its files, following links: it may be on file
//! systems without permissions, or come from git, which has no empty folders.
//!
//! Files are read, never memory-mapped: if another process truncates a mapped file, the kernel
//! kills the reader.
//!
//! Does not know what is digested, and remembers nothing (`sources` does).

use super::links;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use erw_base::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, io};

/// Separates folder digests from file digests: no file can have the digest of a folder.
const TREE_CONTEXT: &str = "erw 2025 digest of a tree, version 1";
/// For lists with an entry that is not a plain file.
const KINDS_CONTEXT: &str = "erw 2026 digest of a tree, version 2";

/// A larger file is hashed by all threads in pieces of this size, which fit into a core's cache;
/// smaller files are distributed over the threads.
const LARGE: u64 = 1 << 20;

/// 32 bytes of blake3, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of bytes in memory, equal to that of a file with these bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
    /// The digest of a symbolic link: of its text.
    pub fn of_link(to: &Path) -> Self {
        Self::of_bytes(to.as_os_str().as_bytes())
    }
    /// The digest of the bytes of one file.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        Self::of_open_file(&File::open(path)?)
    }
    /// The digest of a file that was just opened.
    pub fn of_open_file(file: &File) -> std::io::Result<Self> {
        let hash = match small(file) {
            Some(hash) => hash,
            None => match file.metadata()?.len() {
                bytes if bytes > LARGE => {
                    let (left, right) = halves(file, 0, bytes)?;
                    merge_subtrees_root(&left, &right, Mode::Hash)
                }
                _ => blake3::Hasher::new().update_reader(file)?.finalize(),
            },
        };
        Ok(Self(*hash.as_bytes()))
    }
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The 64 digits, without an allocation.
    pub fn hex(&self) -> impl std::ops::Deref<Target = str> {
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        Hex(hex)
    }
    /// The first 12 digits, for display.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_string()
    }
}

/// The digest of a file that fits into a thread's buffer; `None` if it does not, with nothing read.
/// Most files of most stores do: no size is asked for and no buffer made for each of them.
fn small(file: &File) -> Option<blake3::Hash> {
    const SMALL: usize = 16 << 10;
    thread_local! {
        static BUFFER: RefCell<[u8; SMALL]> = const { RefCell::new([0; SMALL]) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        let mut filled = 0;
        while filled < SMALL {
            match file.read_at(&mut buffer[filled..], filled as u64) {
                Ok(0) => return Some(blake3::hash(&buffer[..filled])),
                Ok(read) => filled += read,
                // Such as a pipe, which has no places: read from its start, with whatever error.
                Err(_) => return None,
            }
        }
        None
    })
}

/// Digests the two halves of a part of a file in parallel, split as blake3 splits it.
fn halves(file: &File, at: u64, bytes: u64) -> io::Result<(ChainingValue, ChainingValue)> {
    let left = left_subtree_len(bytes);
    let (left, right) = rayon::join(|| part(file, at, left), || part(file, at + left, bytes - left));
    Ok((left?, right?))
}

/// Digests a part of a file that is a subtree of its blake3 tree.
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
        io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "it was truncated while it was being read"),
        _ => e,
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The digits of a digest; every path in a cache has them.
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
        // Only lower case is accepted, since a digest must have one name.
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
        s.serialize_str(&self.hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Digits;
        impl de::Visitor<'_> for Digits {
            type Value = Digest;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest of 64 hexadecimal digits")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_str(Digits)
    }
}

/// The kind of a tree entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    File,
    /// A file that is executable by its owner.
    Program,
    /// An empty folder.
    Folder,
    /// With its text.
    Link(PathBuf),
}

impl Kind {
    /// The kind of a regular file: executable by its owner or not, as in git.
    pub fn of_file(metadata: &std::fs::Metadata) -> Self {
        if metadata.permissions().mode() & 0o100 == 0 { Self::File } else { Self::Program }
    }
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File | Self::Program)
    }
    fn tag(&self) -> u8 {
        match self {
            Self::File => 0,
            Self::Program => 1,
            Self::Folder => 2,
            Self::Link(_) => 3,
        }
    }
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Relative to the root; empty if the root itself is a file.
    pub path: PathBuf,
    pub kind: Kind,
    /// Length of the file, or of the text of the link.
    pub bytes: u64,
    /// Digest of the file's bytes, or of the link's text.
    pub digest: Digest,
}

impl TreeEntry {
    /// A plain file, or one whose executable bit does not matter.
    pub fn file(path: PathBuf, bytes: u64, digest: Digest) -> Self {
        Self { path, kind: Kind::File, bytes, digest }
    }

    /// The digest of an entry independent of its path; for a plain file, the digest of its bytes.
    pub fn identity(&self) -> Digest {
        match self.kind {
            Kind::File => self.digest,
            _ => list_digest(&[Self { path: PathBuf::new(), ..self.clone() }]),
        }
    }
}

/// A digest with size and count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub digest: Digest,
    /// Total of the entries.
    pub bytes: u64,
    /// Including links; empty folders do not count.
    pub files: u64,
}

/// The digest of a file or folder from its entries. `is_dir` distinguishes a folder with one file
/// from the file.
pub fn combine(entries: &mut [TreeEntry], is_dir: bool) -> Measured {
    entries.sort_unstable_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    let bytes = entries.iter().map(|e| e.bytes).sum();
    let files = entries.iter().filter(|e| e.kind != Kind::Folder).count() as u64;
    let digest = match entries {
        [only] if !is_dir => only.identity(),
        _ => list_digest(entries),
    };
    Measured { digest, bytes, files }
}

/// Every field has a fixed width or a length prefix, so that two lists never give the same stream.
fn list_digest(sorted: &[TreeEntry]) -> Digest {
    let plain = sorted.iter().all(|entry| entry.kind == Kind::File);
    let mut hasher = blake3::Hasher::new_derive_key(if plain { TREE_CONTEXT } else { KINDS_CONTEXT });
    hasher.update(&(sorted.len() as u64).to_le_bytes());
    for entry in sorted {
        if !plain {
            hasher.update(&[entry.kind.tag()]);
        }
        let path = entry.path.as_os_str().as_bytes();
        hasher.update(&(path.len() as u64).to_le_bytes()).update(path);
        hasher.update(&entry.bytes.to_le_bytes()).update(&entry.digest.0);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// The entries as versions without kinds saw them: plain files only, executable or not, without
/// empty folders. `None` if they would have refused.
fn before_kinds(entries: &[TreeEntry]) -> Option<Vec<TreeEntry>> {
    let files = entries.iter().filter(|e| e.kind != Kind::Folder);
    files.map(|e| e.kind.is_file().then(|| TreeEntry { kind: Kind::File, ..e.clone() })).collect()
}

/// An entry found by a walk.
#[derive(Debug, Clone)]
pub struct WalkEntry {
    /// Relative to the root.
    pub path: PathBuf,
    pub kind: Kind,
    /// Metadata of the link itself, if links are kept.
    pub metadata: std::fs::Metadata,
}

/// How to treat symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// For source data, which often consists of links: their targets count.
    Follow,
    /// The same, but a broken link counts by its text: whoever reads the data finds out whether it
    /// matters.
    FollowIfThere,
    /// For artifacts, which may contain links.
    Keep,
}

/// Everything that counts under `root` (or `root` itself), in no particular order: the entries of
/// an artifact, or the files of source data. A pipe or socket is an error that names it, and so is,
/// where links are followed, a broken link or a loop.
pub fn walk(root: &Path, links: Links) -> Result<Vec<WalkEntry>> {
    walk_some(root, links, &|_, _| false)
}

/// The same, without the paths that `left_out` excludes; it gets the path below the root and
/// whether it is a folder.
pub fn walk_some(root: &Path, links: Links, left_out: &dyn Fn(&Path, bool) -> bool) -> Result<Vec<WalkEntry>> {
    let follow = links != Links::Keep;
    // Fast path: most artifacts are a single file, and there are many.
    let metadata = if follow { std::fs::metadata(root) } else { std::fs::symlink_metadata(root) };
    if let Some(metadata) = metadata.ok().filter(std::fs::Metadata::is_file) {
        let kind = if follow { Kind::File } else { Kind::of_file(&metadata) };
        return Ok(vec![WalkEntry { path: PathBuf::new(), kind, metadata }]);
    }
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_path_buf();
    let mut found = Vec::new();
    // A folder that may turn out to be empty.
    let mut open: Option<walkdir::DirEntry> = None;
    let mut entries = walkdir::WalkDir::new(root).follow_links(follow).follow_root_links(follow).into_iter();
    loop {
        let entry = entries.next();
        let inside = |open: &walkdir::DirEntry| entry.as_ref().is_some_and(|e| depth(e) > open.depth());
        if let Some(empty) = open.take().filter(|open| !inside(open)) {
            let metadata = empty.metadata().map_err(|e| walk_error(root, &e))?;
            found.push(WalkEntry { path: relative(empty.path()), kind: Kind::Folder, metadata });
        }
        let Some(entry) = entry else { return Ok(found) };
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) if e.path().is_some_and(|path| path != root && left_out(path, false)) => continue,
            Err(e) => match broken_link(root, &e).filter(|_| links == Links::FollowIfThere) {
                Some(vain) => {
                    found.push(vain);
                    continue;
                }
                None => return Err(walk_error(root, &e)),
            },
        };
        let kind = entry.file_type();
        if entry.depth() > 0 && left_out(entry.path(), kind.is_dir()) {
            if kind.is_dir() {
                entries.skip_current_dir();
            }
            continue;
        }
        if kind.is_dir() {
            open = Some(entry).filter(|e| !follow && e.depth() > 0);
            continue;
        }
        let metadata = entry.metadata().map_err(|e| walk_error(root, &e))?;
        let kind = if kind.is_symlink() && entry.depth() > 0 {
            Kind::Link(std::fs::read_link(entry.path()).map_err(|e| Error::io("read", entry.path(), e))?)
        } else if kind.is_symlink() {
            return Err(Error::stage(format!("`{}` is a symbolic link", root.display()))
                .hint("an artifact is a file or a folder, not a link to one: copy it"));
        } else if !kind.is_file() {
            return Err(Error::usage(format!("`{}` is neither a file nor a folder", entry.path().display())));
        } else if follow {
            Kind::File
        } else {
            Kind::of_file(&metadata)
        };
        found.push(WalkEntry { path: relative(entry.path()), kind, metadata });
    }
}

fn depth(entry: &walkdir::Result<walkdir::DirEntry>) -> usize {
    entry.as_ref().map_or_else(walkdir::Error::depth, walkdir::DirEntry::depth)
}

/// The broken link below `root`, if that is what a walk ran into.
fn broken_link(root: &Path, e: &walkdir::Error) -> Option<WalkEntry> {
    let path = e.path().filter(|path| *path != root && e.loop_ancestor().is_none())?;
    e.io_error().filter(|e| e.kind() != std::io::ErrorKind::PermissionDenied)?;
    let metadata = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_symlink)?;
    let kind = Kind::Link(std::fs::read_link(path).ok()?);
    Some(WalkEntry { path: path.strip_prefix(root).ok()?.to_path_buf(), kind, metadata })
}

/// Whether the walk found a single file, not a folder.
pub fn is_file(found: &[WalkEntry]) -> bool {
    matches!(found, [only] if only.path.as_os_str().is_empty())
}

fn walk_error(root: &Path, e: &walkdir::Error) -> Error {
    let path = e.path().unwrap_or(root);
    if let Some(up) = e.loop_ancestor() {
        let (path, up) = (path.display(), up.display());
        return Error::usage(format!("`{path}` is a link back to `{up}`, which contains it"));
    }
    if let (Ok(to), false) = (std::fs::read_link(path), path.exists()) {
        let (path, to) = (path.display(), to.display());
        return Error::usage(format!("`{path}` is a broken link to `{to}`"));
    }
    let cause = e.io_error().map_or_else(|| e.to_string(), ToString::to_string);
    Error::usage(format!("cannot read `{}`", path.display())).because(cause)
}

/// The entries of an artifact; reads every byte. A link that leads out of it is an error.
pub fn entries(root: &Path) -> Result<Vec<TreeEntry>> {
    let found = walk(root, Links::Keep)?;
    let links = found.iter().filter_map(|f| if let Kind::Link(to) = &f.kind { Some((&*f.path, &**to)) } else { None });
    if let Some((link, to)) = links::first_escaping(links) {
        return Err(Error::stage(format!(
            "the link `{}` leads to `{}`, outside the output",
            link.display(),
            to.display()
        ))
        .hint("relative links within the output are kept; copy anything else into it"));
    }
    let entry = |f: WalkEntry| {
        let path = join(root, &f.path);
        let digest = match &f.kind {
            Kind::Link(to) => Digest::of_link(to),
            Kind::Folder => Digest::of_bytes(b""),
            _ => Digest::of_file(&path).map_err(|e| Error::io("read", &path, e))?,
        };
        let bytes = match &f.kind {
            Kind::Link(to) => to.as_os_str().len() as u64,
            Kind::Folder => 0,
            _ => f.metadata.len(),
        };
        Ok(TreeEntry { path: f.path, kind: f.kind, bytes, digest })
    };
    match is_file(&found) {
        true => found.into_iter().map(entry).collect(),
        false => found.into_par_iter().map(entry).collect(),
    }
}

/// Whether these entries are those of a folder, in which every entry has a name.
pub fn is_folder(entries: &[TreeEntry]) -> bool {
    !matches!(entries, [only] if only.path.as_os_str().is_empty())
}

/// The digest of an artifact; reads every byte.
pub fn measure(root: &Path) -> Result<Measured> {
    let mut entries = entries(root)?;
    let is_dir = is_folder(&entries);
    Ok(combine(&mut entries, is_dir))
}

/// The artifact with these entries, if `digest` is theirs, computed by this version or by one
/// without kinds (then with the entries as that version saw them).
pub fn named(mut entries: Vec<TreeEntry>, digest: &Digest) -> Option<(Measured, Vec<TreeEntry>)> {
    let is_dir = is_folder(&entries);
    let now = combine(&mut entries, is_dir);
    if now.digest == *digest {
        return Some((now, entries));
    }
    let mut files = before_kinds(&entries)?;
    let before = combine(&mut files, is_dir);
    (before.digest == *digest).then_some((before, files))
}

/// `root.join("")` would add a slash and turn a file into a folder.
pub fn join(root: &Path, relative: &Path) -> PathBuf {
    if relative.as_os_str().is_empty() { root.to_path_buf() } else { root.join(relative) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

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
    fn links_are_followed_outside_and_kept_in_artifacts() {
        let dir = dir();
        fs::write(dir.path().join("f"), "1").unwrap();
        symlink("f", dir.path().join("l")).unwrap();
        assert_eq!(walk(dir.path(), Links::Follow).unwrap().len(), 2);
        let plain = measure(dir.path()).unwrap();
        assert_eq!((plain.files, plain.bytes), (2, 2));
        symlink("nowhere", dir.path().join("vain")).unwrap();
        assert!(walk(dir.path(), Links::Follow).unwrap_err().message.contains("is a broken link to"));
        let found = walk(dir.path(), Links::FollowIfThere).unwrap();
        assert_eq!((found.len(), found.iter().filter(|f| !f.kind.is_file()).count()), (3, 1));
        symlink(".", dir.path().join("loop")).unwrap();
        assert!(walk(dir.path(), Links::FollowIfThere).unwrap_err().message.contains("is a link back to"));
        assert_ne!(plain.digest, measure(dir.path()).unwrap().digest);
    }

    /// Values computed for version 1 with the Python package blake3.
    #[test]
    fn trees_of_plain_files_keep_their_digests() {
        let dir = dir();
        let digest = || measure(dir.path()).unwrap().digest.to_string();
        assert_eq!(digest(), "3d54cf57f745314ae840533d6fa174831dce8a01f629c6d1ef499d731d02c6b2");
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        fs::write(dir.path().join("b/c"), "").unwrap();
        assert_eq!(digest(), "f58f53b380913396926b2878ad2769a13f52286357d4fbeae092c215f1a76531");
    }

    /// All of these differ from each other and from the digests of earlier versions.
    #[test]
    fn kinds_of_entries_are_told_apart() {
        let make = |how: &dyn Fn(&Path)| {
            let dir = dir();
            how(&dir.path().join("o"));
            measure(&dir.path().join("o")).unwrap().digest
        };
        let file = |path: &Path, text: &str, mode| {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let within = |fill: &dyn Fn(&Path)| {
            make(&|o| {
                fs::create_dir(o).unwrap();
                fill(o);
            })
        };
        let all = [
            make(&|o| file(o, "x", 0o644)),
            make(&|o| file(o, "x", 0o755)),
            within(&|_| {}),
            within(&|o| file(&o.join("n"), "x", 0o644)),
            within(&|o| file(&o.join("n"), "x", 0o744)),
            within(&|o| file(&o.join("n"), "", 0o644)),
            within(&|o| fs::create_dir(o.join("n")).unwrap()),
            within(&|o| symlink("x", o.join("n")).unwrap()),
            within(&|o| symlink("y", o.join("n")).unwrap()),
            within(&|o| fs::create_dir_all(o.join("n/n")).unwrap()),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len(), "{all:?}");
        // Only the owner's executable bit counts.
        assert_eq!(all[0], make(&|o| file(o, "x", 0o4600)));
        assert_eq!(all[1], make(&|o| file(o, "x", 0o500)));
    }

    #[test]
    fn what_earlier_versions_stored_is_known_by_the_name_they_gave_it() {
        let dir = dir();
        fs::write(dir.path().join("f"), "1").unwrap();
        let old = measure(dir.path()).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        fs::set_permissions(dir.path().join("f"), fs::Permissions::from_mode(0o555)).unwrap();
        let mut now = entries(dir.path()).unwrap();
        let new = combine(&mut now, true);
        assert_ne!(new.digest, old.digest);
        assert_eq!(named(now.clone(), &new.digest), Some((new, now.clone())));
        assert_eq!(named(now.clone(), &old.digest).map(|(measured, _)| measured), Some(old));
        now.iter_mut().for_each(|e| e.digest = Digest::of_bytes(b"2"));
        assert_eq!(named(now, &old.digest), None);
    }

    #[test]
    fn only_the_written_form_is_read_back() {
        let digest = Digest::of_bytes(b"x");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!("12".parse::<Digest>().is_err());
    }
}
