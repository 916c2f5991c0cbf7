//! Digests of source files, remembered: a file is read once and afterwards recognised by path,
//! size, times and inode number.
//!
//! They are remembered in a text file per root folder, `v1/files/<id>.txt`:
//! ```text
//! erw files 1
//! <digest> <bytes> <mtime ns> <ctime ns> <inode> <path relative to the root, as a JSON string>
//! …
//! check <digest of everything above>
//! ```
//! A truncated, unknown or damaged file is ignored: the sources are read again.
//!
//! *Racily clean*: a file changed within the same clock tick in which it was read looks unchanged
//! afterwards. So a file changed less than `SETTLED` before it was read is used but not remembered.
//! The change time is compared too, because programs such as rsync reset the modification time.
//!
//! Beside it, `<id>.total` has the digest of the whole root and the total of its files' stamps
//! (`stamps`), if all of them are remembered: a root whose total is the same is neither listed nor
//! compared file by file. A folder of 400,000 images is recognised in the time of a `find`, with no
//! list of them in memory.
//!
//! This module does not know what the files are for.

use super::stamps::{Stamp, Total};
use super::store::Store;
use crate::files::digest::{
    Digest, Kind, Links, Measured, TreeEntry, WalkEntry, combine, is_file, join, walk, walk_some,
};
use crate::files::disk::{Durability, write_file};
use crate::files::watched::{Rule, Watched};
use crate::pipeline::graph::SourcePath;
use erw_base::error::{Error, Result};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

const HEADER: &str = "erw files 1";
/// Listings of larger folders are not kept with the records that used them.
const LISTED: usize = 200_000;

type Memory = HashMap<PathBuf, (Stamp, Digest)>;

/// A source file or folder with its digest.
#[derive(Debug)]
pub struct DigestedSource {
    pub measured: Measured,
    /// If it was recognised as a whole: filled when asked for.
    entries: OnceLock<Vec<TreeEntry>>,
    /// What is remembered of it.
    memory: PathBuf,
}

impl DigestedSource {
    /// Its files, sorted by path; `None` if they were not listed, and are no longer remembered.
    pub fn entries(&self) -> Option<&[TreeEntry]> {
        if self.entries.get().is_none() {
            let files = recall(&self.memory).into_iter();
            let mut entries: Vec<_> = files.map(|(path, (stamp, is))| TreeEntry::file(path, stamp.bytes, is)).collect();
            if combine(&mut entries, true) == self.measured {
                let _ = self.entries.set(entries);
            }
        }
        self.entries.get().map(Vec::as_slice)
    }
}

/// Filled by the first caller; the others wait for it.
type DigestCell = Arc<OnceLock<Result<Arc<DigestedSource>>>>;

/// The source files of one run: each root is walked once, however many stages read it.
#[derive(Debug, Default)]
pub struct Files {
    known: Mutex<HashMap<(PathBuf, Option<Rule>), DigestCell>>,
}

impl Files {
    /// The digest of a source as of its first use in this run.
    pub fn digest(&self, store: &Store, source: &SourcePath) -> Result<Arc<DigestedSource>> {
        self.digest_at(store, &source.path, source.watched.as_ref())
    }

    /// Whether the digest is there without reading or waiting.
    pub fn knows(&self, source: &SourcePath) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = known.get(&(source.path.clone(), source.watched.as_ref().map(|w| w.rule().clone())));
        cell.is_some_and(|cell| cell.get().is_some())
    }

    /// Whether the digest is there once the stamps of the files have been looked at: nothing has
    /// changed since they were read. If so, [`digest`](Self::digest) does not look at them again.
    pub fn recalls(&self, store: &Store, source: &SourcePath) -> bool {
        let cell = self.cell(&source.path, source.watched.as_ref());
        if cell.get().is_none()
            && let Some(found) = recalled(store, source)
        {
            // Another thread may have been faster, and has the same.
            let _ = cell.set(Ok(Arc::new(found)));
        }
        cell.get().is_some()
    }

    /// The digest of a file or folder, without what `watched` excludes.
    pub fn digest_at(&self, store: &Store, path: &Path, watched: Option<&Watched>) -> Result<Arc<DigestedSource>> {
        let cell = self.cell(path, watched);
        cell.get_or_init(|| digest_at(store, path, watched).map(Arc::new)).clone()
    }

    fn cell(&self, path: &Path, watched: Option<&Watched>) -> DigestCell {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry((path.to_path_buf(), watched.map(|w| w.rule().clone()))).or_default())
    }
}

/// The digest of a source as it is now; unchanged files are not read.
pub fn digest_now(store: &Store, source: &SourcePath) -> Result<DigestedSource> {
    digest_at(store, &source.path, source.watched.as_ref())
}

/// Every file below `root`, or those that `watched` selects.
pub fn walk_source(root: &Path, watched: Option<&Watched>) -> Result<Vec<WalkEntry>> {
    let Some(watched) = watched else { return walk(root, Links::FollowIfThere) };
    let found = walk_some(root, Links::Follow, &|path, is_dir| watched.leaves_out(root, path, is_dir));
    let hint = || "exclude a file that does not matter with `ignore = [\"NAME\"]` beside `watch`".to_string();
    let mut found = found.map_err(|e| e.hint(hint()))?;
    found.retain(|f| watched.means(&f.path));
    Ok(found)
}

fn digest_at(store: &Store, path: &Path, watched: Option<&Watched>) -> Result<DigestedSource> {
    let root = path.canonicalize().map_err(|e| Error::io("read", path, e))?;
    let memory = memory_file(store, &root, watched);
    if let Some(measured) = recalled_by_total(&root, &memory, watched) {
        return Ok(DigestedSource { measured, entries: OnceLock::new(), memory });
    }
    let old = recall(&memory);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128);
    let found = walk_source(&root, watched)?;
    let is_dir = !is_file(&found);
    let read: Vec<(TreeEntry, Stamp, bool)> =
        found.into_par_iter().map(|f| digest_one(&root, f, &old)).collect::<Result<_>>()?;

    let fresh = read.iter().any(|(_, stamp, known)| !known && stamp.is_settled(now));
    let gone = old.len() > read.iter().filter(|(entry, _, known)| *known && entry.kind.is_file()).count();
    if fresh || gone {
        // Failing to remember costs time later, nothing else; the store reports a full or read-only
        // disk.
        let _ = write_file(&memory, remember(&read, now).as_bytes(), Durability::Later);
    }
    let total = is_dir.then(|| total(&read, now)).flatten();
    let mut entries: Vec<TreeEntry> = read.into_iter().map(|(entry, ..)| entry).collect();
    let measured = combine(&mut entries, is_dir);
    if let Some(total) = total {
        let _ = write_file(&memory.with_extension(TOTAL), told(&measured, &total).as_bytes(), Durability::Later);
    }
    Ok(DigestedSource { measured, entries: entries.into(), memory })
}

/// The digest of a source of which no contents need be read.
fn recalled(store: &Store, source: &SourcePath) -> Option<DigestedSource> {
    let (root, watched) = (source.path.canonicalize().ok()?, source.watched.as_ref());
    let memory = memory_file(store, &root, watched);
    if root.is_dir() {
        let measured = recalled_by_total(&root, &memory, watched)?;
        return Some(DigestedSource { measured, entries: OnceLock::new(), memory });
    }
    let old = recall(&memory);
    let is_as_it_was = |f: &WalkEntry| old.get(&f.path).is_some_and(|(then, _)| *then == Stamp::of(&f.metadata));
    walk_source(&root, watched).ok()?.iter().all(is_as_it_was).then(|| digest_now(store, source).ok())?
}

/// The digest of a folder whose files are those of which it is remembered.
fn recalled_by_total(root: &Path, memory: &Path, watched: Option<&Watched>) -> Option<Measured> {
    let (measured, then) = recall_total(memory)?;
    Total::of(root, watched).is_some_and(|now| now.text() == then).then_some(measured)
}

/// Ends the name of the file with the total of a root.
const TOTAL: &str = "total";

/// The total of the files of a root, if all are remembered.
fn total(read: &[(TreeEntry, Stamp, bool)], now: i128) -> Option<Total> {
    let mut all = read.iter();
    all.try_fold(Total::default(), |total, one| is_remembered(one, now).then(|| total.add(&one.0.path, &one.1)))
}

/// A line of the digest of a root and the total of its files, and a check.
fn told(measured: &Measured, total: &Total) -> String {
    let Measured { digest, bytes, files } = measured;
    checked(format!("{digest} {bytes} {files} {}\n", total.text()))
}

fn recall_total(memory: &Path) -> Option<(Measured, String)> {
    let text = std::fs::read_to_string(memory.with_extension(TOTAL)).ok()?;
    let mut words = lines(&text)?.strip_suffix('\n')?.split(' ');
    let digest = words.next()?.parse().ok()?;
    let mut number = || words.next()?.parse().ok();
    let measured = Measured { digest, bytes: number()?, files: number()? };
    Some((measured, words.next()?.to_string()))
}

/// The third value: the digest was remembered, not read.
fn digest_one(root: &Path, found: WalkEntry, old: &Memory) -> Result<(TreeEntry, Stamp, bool)> {
    let stamp = Stamp::of(&found.metadata);
    if let Kind::Link(to) = &found.kind {
        let digest = Digest::of_link(to);
        return Ok((TreeEntry { path: found.path, kind: found.kind, bytes: stamp.bytes, digest }, stamp, true));
    }
    if let Some((known, digest)) = old.get(&found.path)
        && *known == stamp
    {
        return Ok((TreeEntry::file(found.path, stamp.bytes, *digest), stamp, true));
    }
    let path = join(root, &found.path);
    let failed = |e| Error::io("read", &path, e);
    if stamp.bytes == 0 && !is_empty(&path).map_err(failed)? {
        return Err(Error::usage(format!("`{}` contains more bytes than its size says", path.display()))
            .because("the system generates it on each read, so its contents vary")
            .hint("use regular files and folders"));
    }
    let digest = Digest::of_file(&path).map_err(failed)?;
    if Stamp::of(&path.metadata().map_err(failed)?) != stamp {
        return Err(Error::usage(format!("`{}` changed while it was being read", path.display()))
            .hint("rerun when nothing writes to it"));
    }
    Ok((TreeEntry::file(found.path, stamp.bytes, digest), stamp, false))
}

/// Files in `/proc` have size 0 but are not empty, and reading some of them never ends.
fn is_empty(path: &Path) -> std::io::Result<bool> {
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.read(&mut [0]) {
        Ok(read) => Ok(read == 0),
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// One file per root and `watched` rule, so that two rules do not overwrite each other's entries.
fn memory_file(store: &Store, root: &Path, watched: Option<&Watched>) -> PathBuf {
    let mut of = root.as_os_str().as_bytes().to_vec();
    if let Some(rule) = watched.map(Watched::rule).filter(|rule| **rule != Rule::default()) {
        of.push(0);
        of.extend(serde_json::to_vec(rule).unwrap_or_default());
    }
    store.v1("files").join(format!("{}.txt", Digest::of_bytes(&of)))
}

fn remember(read: &[(TreeEntry, Stamp, bool)], now: i128) -> String {
    let mut text = format!("{HEADER}\n");
    for (entry, stamp, _) in read.iter().filter(|one| is_remembered(one, now)) {
        let Stamp { bytes, mtime, ctime, inode } = stamp;
        text.push_str(&format!("{} {bytes} {mtime} {ctime} {inode} {}\n", entry.digest, quote(&entry.path)));
    }
    checked(text)
}

/// A file that was settled when it was read, and whose stamp has not changed since.
fn is_remembered((entry, stamp, known): &(TreeEntry, Stamp, bool), now: i128) -> bool {
    entry.kind.is_file() && (*known || stamp.is_settled(now))
}

/// Lines with a check of them at the end.
fn checked(lines: String) -> String {
    let check = Digest::of_bytes(lines.as_bytes());
    lines + &format!("check {check}\n")
}

/// The lines before a check that holds.
fn lines(text: &str) -> Option<&str> {
    let (lines, check) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let lines = &text[..lines.len() + 1];
    let check: Digest = check.strip_prefix("check ")?.parse().ok()?;
    (Digest::of_bytes(lines.as_bytes()) == check).then_some(lines)
}

fn recall(file: &Path) -> Memory {
    let Ok(text) = std::fs::read_to_string(file) else { return Memory::new() };
    parse(&text).unwrap_or_default()
}

fn parse(text: &str) -> Option<Memory> {
    let mut lines = lines(text)?.lines();
    (lines.next()? == HEADER).then_some(())?;
    lines.map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<(PathBuf, (Stamp, Digest))> {
    let mut parts = line.splitn(6, ' ');
    let digest = parts.next()?.parse().ok()?;
    let bytes = parts.next()?.parse().ok()?;
    let mtime = parts.next()?.parse().ok()?;
    let ctime = parts.next()?.parse().ok()?;
    let inode = parts.next()?.parse().ok()?;
    Some((unquote(parts.next()?)?, (Stamp { bytes, mtime, ctime, inode }, digest)))
}

/// A path on one line. Names that are not UTF-8 become a list of bytes.
fn quote(path: &Path) -> String {
    match path.to_str() {
        Some(text) => serde_json::Value::from(text).to_string(),
        None => serde_json::Value::from(path.as_os_str().as_bytes().to_vec()).to_string(),
    }
}

fn unquote(text: &str) -> Option<PathBuf> {
    if text.starts_with('[') {
        let bytes: Vec<u8> = serde_json::from_str(text).ok()?;
        return Some(std::ffi::OsString::from_vec(bytes).into());
    }
    serde_json::from_str::<String>(text).ok().map(PathBuf::from)
}

/// Saves the listing of a source folder, so that a later reason can name the file that changed.
pub fn keep_listing(store: &Store, outside: &DigestedSource) {
    let path = store.tree_file(&outside.measured.digest);
    if outside.measured.files as usize > LISTED || path.exists() {
        return;
    }
    let Some(entries) = outside.entries() else { return };
    let lines = entries.iter().map(|e| format!("{} {}\n", e.digest, quote(&e.path)));
    // Only explanations need it, so a failure is ignored.
    let _ = write_file(&path, lines.collect::<String>().as_bytes(), Durability::Later);
}

/// The saved listing of a folder with this digest.
pub fn listing(store: &Store, digest: &Digest) -> Option<BTreeMap<PathBuf, Digest>> {
    let text = std::fs::read_to_string(store.tree_file(digest)).ok()?;
    let line = |l: &str| l.split_once(' ').and_then(|(d, p)| Some((unquote(p)?, d.parse().ok()?)));
    text.lines().map(line).collect()
}

/// Paths that differ between two versions of a source, in order; none if one was not listed.
pub fn differences(before: &DigestedSource, now: &DigestedSource) -> Vec<PathBuf> {
    let of = |outside: &DigestedSource| -> Option<BTreeMap<PathBuf, Digest>> {
        Some(outside.entries()?.iter().map(|e| (e.path.clone(), e.digest)).collect())
    };
    let (Some(before), Some(now)) = (of(before), of(now)) else { return vec![] };
    let names: BTreeSet<&PathBuf> = before.keys().chain(now.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != now.get(*name)).cloned().collect()
}

/// The first path in which the folder differs from its version with digest `old`.
pub fn first_difference(store: &Store, old: &Digest, now: &DigestedSource) -> Option<PathBuf> {
    let mut before = listing(store, old)?;
    let changed = now.entries()?.iter().find(|e| before.remove(&e.path) != Some(e.digest));
    changed.map(|e| e.path.clone()).or_else(|| before.into_keys().next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    fn age(path: &Path) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(100)).unwrap();
    }

    fn stamp(ns: i128) -> Stamp {
        Stamp { bytes: 1, mtime: ns, ctime: ns, inode: 7 }
    }

    #[test]
    fn a_file_just_touched_is_not_remembered() {
        let now = 10_000_000_000;
        assert!(stamp(now - 2_000_000_001).is_settled(now));
        assert!(!stamp(now - 2_000_000_000).is_settled(now));
        assert!(!stamp(now + 1).is_settled(now));
        let entry = |p: &str| TreeEntry::file(p.into(), 1, Digest::of_bytes(p.as_bytes()));
        let text = remember(&[(entry("old"), stamp(0), false), (entry("new"), stamp(now), false)], now);
        let memory = parse(&text).unwrap();
        assert_eq!(memory.keys().collect::<Vec<_>>(), [Path::new("old")]);
    }

    #[test]
    fn odd_names_survive_and_damage_is_noticed() {
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"a\xff".to_vec()));
        let names = [PathBuf::from("a b\n\"c\""), odd];
        let read = names.clone().map(|path| (TreeEntry::file(path, 1, Digest::of_bytes(b"")), stamp(0), true));
        let text = remember(&read, i128::MAX);
        let memory = parse(&text).unwrap();
        assert!(names.iter().all(|n| memory.contains_key(n)));
        assert!(parse(&text.replacen('7', "8", 1)).is_none());
        assert!(parse(&text[..text.len() - 1]).is_none());
        assert!(parse("").is_none());
    }

    #[test]
    fn a_source_is_recalled_while_its_stamps_are_those_of_what_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache")).unwrap();
        let (folder, file) = (dir.path().join("folder"), dir.path().join("file"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a"), "one").unwrap();
        fs::write(&file, "two").unwrap();
        // Until then a file could change within its stamp.
        std::thread::sleep(Duration::from_millis(2100));
        for (path, changed) in [(folder.clone(), folder.join("a")), (file.clone(), file)] {
            let source = SourcePath { path, missing: vec![], watched: None, place: None };
            assert!(!Files::default().recalls(&store, &source), "it was never read");
            let read = digest_now(&store, &source).unwrap();
            let files = Files::default();
            assert!(files.recalls(&store, &source) && files.knows(&source));
            assert_eq!(files.digest(&store, &source).unwrap().measured, read.measured);
            fs::write(changed, "three").unwrap();
            assert!(!Files::default().recalls(&store, &source), "it has changed");
        }
    }

    #[test]
    fn same_bytes_same_digest_however_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache")).unwrap();
        let root = dir.path().join("data");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a"), "one").unwrap();
        fs::write(root.join("b"), "two").unwrap();
        let first = digest_at(&store, &root, None).unwrap();
        age(&root.join("a"));
        fs::write(root.join("b"), "two").unwrap();
        assert_eq!(digest_at(&store, &root, None).unwrap().measured, first.measured);
        fs::write(root.join("b"), "twO").unwrap();
        assert_ne!(digest_at(&store, &root, None).unwrap().measured.digest, first.measured.digest);
        // Same length, and the modification time reset.
        fs::write(root.join("a"), "eno").unwrap();
        age(&root.join("a"));
        fs::write(root.join("b"), "two").unwrap();
        assert_ne!(digest_at(&store, &root, None).unwrap().measured.digest, first.measured.digest);
    }

    #[test]
    fn an_unchanged_folder_is_recognised_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache")).unwrap();
        let root = dir.path().join("data");
        fs::create_dir_all(root.join("sub")).unwrap();
        for name in ["a", "b", "sub/c"] {
            fs::write(root.join(name), name).unwrap();
        }
        let digest = || digest_at(&store, &root, None).unwrap();
        let total = memory_file(&store, &root.canonicalize().unwrap(), None).with_extension(TOTAL);
        let first = digest();
        assert!(!total.exists(), "the files had just changed");
        std::thread::sleep(crate::cache::stamps::SETTLED + Duration::from_millis(50));
        assert_eq!(digest().measured, first.measured);
        assert!(total.exists());
        let known = digest();
        assert!(known.entries.get().is_none(), "nothing was listed");
        assert_eq!((known.measured, known.entries()), (first.measured, first.entries()));
        // What is remembered of the files is gone, and so is damaged.
        let memory = total.with_extension("txt");
        fs::write(&memory, "rot").unwrap();
        assert_eq!((digest().measured, digest().entries()), (first.measured, None));
        let text = fs::read_to_string(&total).unwrap();
        for (old, new) in [(&text[..1], "x"), ("check", "chekc"), (&text[..text.len() - 2], "")] {
            fs::write(&total, text.replacen(old, new, 1)).unwrap();
            let whole = digest();
            assert_eq!((whole.measured, whole.entries()), (first.measured, first.entries()));
            fs::write(&memory, "rot").unwrap();
        }
        // Any change is seen.
        let changed = |what: &str| {
            let now = digest();
            assert!(now.entries.get().is_some(), "{what}");
            now.measured
        };
        fs::write(root.join("a"), "A").unwrap();
        let second = changed("other bytes");
        assert_ne!(second, first.measured);
        fs::rename(root.join("b"), root.join("sub/b")).unwrap();
        assert_ne!(changed("another name"), second);
    }

    #[test]
    fn the_file_that_changed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache")).unwrap();
        let root = dir.path().join("data");
        fs::create_dir(&root).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(root.join(name), name).unwrap();
        }
        let old = digest_at(&store, &root, None).unwrap();
        keep_listing(&store, &old);
        let difference = || first_difference(&store, &old.measured.digest, &digest_at(&store, &root, None).unwrap());
        assert_eq!(difference(), None);
        fs::remove_file(root.join("c")).unwrap();
        assert_eq!(difference(), Some("c".into()));
        fs::write(root.join("b"), "other").unwrap();
        assert_eq!(difference(), Some("b".into()));
    }
}
