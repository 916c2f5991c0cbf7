//! The cache folder: its layout, atomic writes into it, and its locks.
//!
//! ```text
//! cache/
//!   CACHEDIR.TAG .gitignore         exclude it from backups and from git
//!   v1/lock                         shared by runs, exclusive for gc
//!   v1/store/ab/<digest>            an artifact, file or folder, named by its contents;
//!                                   files are 0444 or 0555, folders 0555
//!   v1/actions/ab/<key>.json        record of a finished action, written last; see `action_cache`
//!   v1/index                        what is asked of many records, see `index`
//!   v1/work/<key>/                  an unfinished action, running or suspended:
//!       attempt-N.json attempt-N.log attempt-N.end.json attempt-N/NAME checkpoints/
//!   v1/logs/<key>/attempt-N.log     logs of a finished action; empty ones are not kept
//!   v1/logs/<key>/{metrics,times}.jsonl   its curves, see `step_log`
//!       placed.json, stop           its job, see `exec::launch::slurm`; see `exec::stop_request`
//!   v1/runners/<name>.{json,sh,log} runs that are jobs, see `exec::launch::slurm::runner_job`
//!   v1/site/<any>/                a check of a site, see `exec::launch::slurm::site_check`
//!   v1/locks/<key>                  held by the process that runs this key, workers included
//!   v1/files/<id>.txt               remembered digests of source files, see `sources`
//!   v1/trees/<digest>.txt           listing of a source folder, to name later what changed
//!   v1/memos/<id>.memo              stored up-to-date checks, see `up_to_date`
//!   v1/quarantine/                  damaged files
//!   v1/verify/<any>/                a temporary cache folder for one rerun, see `verify`
//!   v1/pulls/<digest>/              an artifact being fetched, see `remote`
//!   v1/tags/<name>.json             names that users gave, see `tags`
//!   runs/<id>/                      journals of runs, see `journal`
//!   downloads/<name>/<file>         published files, see `fetch::library`; gc leaves them alone
//! ```
//!
//! Everything appears by rename, so a kill at any instant leaves either nothing or the whole thing.
//! Results that took long are forced to disk before they appear, the rest soon after (see
//! [`Durability`]). The version is in the folder name: another layout can live beside this one.
//!
//! # Several hosts, one folder
//!
//! Runs on several hosts may share a cache folder on a network file system. This relies on:
//!
//! - `flock` that works across hosts. It does on NFSv4 and NFSv3 with its lock daemon (where Linux
//!   turns it into a byte-range lock, hence every lock file is opened for writing), on Lustre
//!   mounted with `-o flock`, on CephFS and GFS2. It does not on NFS mounted with `nolock` or
//!   `local_lock=flock` or `all`, on Lustre with `-o localflock`, on CIFS with `nobrl` and on most
//!   FUSE file systems (sshfs, s3fs, …): there every host needs its own cache, and a remote can
//!   connect them. A file system without locks is refused when the folder is opened.
//! - Atomic rename within the folder; a rename onto an existing artifact fails or replaces it by
//!   equal bytes.
//! - Random temporary names; process numbers would repeat on other hosts.
//! - Listings and lookups may be a few seconds old (NFS caches them): then something is computed
//!   twice, and equal bytes meet under one name. Nothing unfinished is ever taken for finished.
//! - The lock of a key belongs to the open file, and to processes that inherit it, on one host. A
//!   host that dies loses its locks when the server notices (NFSv4: after its lease, usually 90 s);
//!   until then other hosts wait.
//!
//! # Read-only caches
//!
//! A read-only cache (another user's, or on a read-only disk) serves everything that needs no
//! writing: plans, lists, exports, and runs in which everything is cached. Optional writes are
//! skipped; a stage that must run is refused with the reason. Users of one group share a cache
//! whose folders are created with umask 002.
//!
//! Records name their host. Clocks of hosts are compared only by `gc`, in hours. This module does
//! not know the ingredients of an action.

use super::key::Key;
use crate::files::digest::{Digest, Kind, Links, Measured, TreeEntry, WalkEntry, entries, measure, named, walk};
use crate::files::disk::{
    self, Durability, list, relocate, relocate_sealed, seal, seal_folders, sync_dir, unique, write_atomic,
};
use crate::files::watched::is_dropping;
use erw_base::error::{Error, ErrorKind, Result};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Artifacts and records of erw. See `erw cache --help`.\n";

const TAG_FILE: &str = "CACHEDIR.TAG";
/// Bytes of the tag that are the same for all programs.
const SIGNATURE: usize = 43;

/// In a work folder: the note of an attempt that goes on without a runner.
pub const PLACED: &str = "placed.json";

/// Prefix of empty work folders that wait for reuse.
pub const SPARE: &str = ".spare-";

#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Why the store is not writable, if so.
    refused: Option<Box<Error>>,
    /// Held for the life of the value, so that gc cannot remove what a run has just stored. A
    /// read-only cache may have no lock.
    _lock: Option<File>,
}

/// Exclusive use of a key by this process and the workers that inherit the lock. Released on drop,
/// unless such a worker still lives.
#[derive(Debug)]
pub struct KeyLock {
    file: File,
}

impl KeyLock {
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Result of a check that does not read the artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Whole,
    Absent,
    /// The size or number of files differs from the record.
    Damaged,
}

impl Store {
    /// Whether the folder is a cache of erw.
    pub fn is_at(dir: &Path) -> bool {
        Self::is_tagged(dir) && dir.join("v1").is_dir()
    }

    /// Whether the folder is tagged as a cache, by this or another program.
    pub fn is_tagged(dir: &Path) -> bool {
        fs::read(dir.join(TAG_FILE)).is_ok_and(|text| text.starts_with(&TAG.as_bytes()[..SIGNATURE]))
    }

    /// Opens the cache folder, creating it if necessary. A folder that is not writable is opened
    /// read-only.
    pub fn open(dir: &Path) -> Result<Self> {
        let root = root(dir)?;
        let (lock, refused) = match prepare(&root) {
            Ok(lock) => (Some(lock), None),
            Err((path, e)) if is_refusal(&e) => {
                let refused = unusable(dir, &path, e);
                (lock_to_read(dir, &root, &refused)?, Some(Box::new(refused)))
            }
            Err((path, e)) => return Err(unusable(dir, &path, e)),
        };
        if let Some(lock) = &lock {
            lock.lock_shared().map_err(|e| no_locks(dir, &root.join(LOCK), e))?;
        }
        Ok(Self { root, refused, _lock: lock })
    }

    /// For commands that change the cache: a read-only one is refused at once.
    pub fn open_to_write(dir: &Path) -> Result<Self> {
        let store = Self::open(dir)?;
        store.writable().map(|()| store)
    }

    /// For gc: exclusive access.
    pub fn open_alone(dir: &Path) -> Result<Self> {
        let root = root(dir)?;
        let lock = prepare(&root).map_err(|(path, e)| unusable(dir, &path, e))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => {
                Error::usage(format!("a run is using the cache folder `{}`", dir.display())).hint("wait until it ends")
            }
            TryLockError::Error(e) => no_locks(dir, &root.join(LOCK), e),
        })?;
        Ok(Self { root, refused: None, _lock: Some(lock) })
    }

    /// # Errors
    /// When this cache is read-only, with the reason.
    pub fn writable(&self) -> Result<()> {
        self.refused.as_ref().map_or(Ok(()), |why| Err((**why).clone()))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn v1(&self, sub: &str) -> PathBuf {
        self.root.join("v1").join(sub)
    }
    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }
    /// The path of the artifact with this digest, whether it exists or not.
    pub fn object(&self, digest: &Digest) -> PathBuf {
        self.in_bucket("v1/store/", digest, "")
    }
    pub fn action_file(&self, key: &Key) -> PathBuf {
        self.in_bucket("v1/actions/", &(*key).into(), ".json")
    }
    /// In one piece: a run of many thousand stages asks for several paths of each.
    fn in_bucket(&self, folder: &str, digest: &Digest, end: &str) -> PathBuf {
        let hex = digest.hex();
        let parts = [folder, &hex[..2], "/", &hex, end];
        let below = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut path = PathBuf::with_capacity(self.root.as_os_str().len() + 1 + below);
        path.push(&self.root);
        // Ends in a separator.
        path.push("");
        let mut path = path.into_os_string();
        parts.iter().for_each(|part| path.push(part));
        path.into()
    }
    pub fn work_dir(&self, key: &Key) -> PathBuf {
        self.v1("work").join(key.to_string())
    }
    /// Logs of a finished action: `attempt-N.log` and the files of [`crate::kind::step_log`]. Those
    /// of an unfinished one are in its work folder.
    pub fn log_dir(&self, key: &Key) -> PathBuf {
        self.v1("logs").join(key.to_string())
    }
    pub fn tree_file(&self, digest: &Digest) -> PathBuf {
        self.v1("trees").join(format!("{digest}.txt"))
    }

    /// `None`: another process holds the lock of this key.
    pub fn try_lock(&self, key: &Key) -> Result<Option<KeyLock>> {
        let (path, file) = self.lock_file(key)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(KeyLock { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
        }
    }

    /// Waits for the lock of this key. Only where it is held briefly.
    pub fn lock(&self, key: &Key) -> Result<KeyLock> {
        let (path, file) = self.lock_file(key)?;
        file.lock().map_err(|e| Error::io("lock", &path, e))?;
        Ok(KeyLock { file })
    }

    fn lock_file(&self, key: &Key) -> Result<(PathBuf, File)> {
        let path = self.v1("locks").join(key.to_string());
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| Error::io("open the lock", &path, e))?;
        Ok((path, file))
    }

    /// Marks a record as used: the mtime of its file is the last use, to the hour, for gc. More often
    /// would be a new file to every up-to-date check, which is marked itself when it answers.
    pub fn used(&self, key: &Key) {
        let path = self.action_file(key);
        let changed = fs::metadata(&path).and_then(|m| m.modified());
        let fresh = changed.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age < USE_SLACK));
        if !fresh {
            touch(&path);
        }
    }

    /// Whether the artifact exists with the recorded size. Reads names and sizes only.
    pub fn look(&self, expected: &Measured) -> Presence {
        let path = self.object(&expected.digest);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return Presence::Absent };
        if metadata.is_file() {
            let whole = metadata.len() == expected.bytes && expected.files == 1;
            return if whole { Presence::Whole } else { Presence::Damaged };
        }
        let Ok(found) = walk(&path, Links::Keep) else { return Presence::Damaged };
        let counts = |f: &&WalkEntry| f.kind != Kind::Folder;
        let is_it = |found: &mut dyn Iterator<Item = &WalkEntry>| {
            let (files, bytes) = found.filter(counts).fold((0, 0), |(n, b), f| (n + 1, b + f.metadata.len()));
            bytes == expected.bytes && files == expected.files
        };
        // Files that other programs dropped there are not damage; they are removed before the
        // artifact is used.
        let whole = is_it(&mut found.iter()) || is_it(&mut found.iter().filter(|f| !is_dropping(&f.path)));
        if whole { Presence::Whole } else { Presence::Damaged }
    }

    /// Moves a finished output into the store. If the store has these contents already, `path` is
    /// left where it is.
    pub fn publish(&self, path: &Path, measured: &Measured, keep: Durability) -> Result<()> {
        let failed = |e: io::Error| {
            let store = self.v1("store");
            let hint = format!("`{}` must be writable and have free space; then rerun", store.display());
            Error::io("store", path, e).hint(hint)
        };
        let object = self.object(&measured.digest);
        // Uses today's definition: an earlier version may have stored it executable where this one
        // is not.
        let same = || measure(&object).is_ok_and(|m| m == *measured);
        match self.look(measured) {
            // Read in full, not only by size: this is the moment when a rotten artifact can be
            // replaced.
            Presence::Whole if same() => return Ok(()),
            Presence::Whole | Presence::Damaged => self.quarantine(&measured.digest)?,
            Presence::Absent => {}
        }
        seal(path, keep).map_err(failed)?;
        let parent = object.parent().unwrap_or(&self.root);
        let moved = match relocate(path, &object, keep) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(parent).and_then(|()| relocate(path, &object, keep))
            }
            other => other,
        };
        match moved {
            // Another run stored equal bytes first.
            Err(_) if same() => Ok(()),
            other => other
                .and_then(|()| seal_folders(&object))
                .and_then(|()| if keep == Durability::Now { sync_dir(parent) } else { Ok(()) })
                .map_err(failed),
        }
    }

    /// Forces everything stored with [`Durability::Later`] to disk.
    pub fn sync(&self) -> Result<()> {
        let flush = || nix::unistd::syncfs(File::open(&self.root)?).map_err(io::Error::from);
        flush().map_err(|e| Error::io("flush", &self.root, e))
    }

    /// The contents of an artifact that matches its digest. Reads all of it. Files that other
    /// programs dropped into it, such as Python's `__pycache__`, are removed if the rest is intact.
    pub fn examine(&self, digest: &Digest) -> Option<(Measured, Vec<TreeEntry>)> {
        let object = self.object(digest);
        let all = entries(&object).ok()?;
        if let Some(whole) = named(all.clone(), digest) {
            return Some(whole);
        }
        let (dropped, rest): (Vec<TreeEntry>, Vec<TreeEntry>) = all.into_iter().partition(|e| is_dropping(&e.path));
        let whole = named(rest, digest).filter(|_| !dropped.is_empty())?;
        let paths: Vec<PathBuf> = dropped.into_iter().map(|e| e.path).collect();
        let kept: Vec<PathBuf> = whole.1.iter().map(|e| e.path.clone()).collect();
        disk::remove_added(&object, &paths, &kept).ok()?;
        named(entries(&object).ok()?, digest)
    }

    /// Removes added files from an artifact. Returns whether the rest is intact.
    pub fn clear(&self, change: &Tampering) -> bool {
        let object = self.object(&change.digest);
        change.altered.is_empty()
            && disk::remove_added(&object, &change.added, &change.kept).is_ok()
            && self.examine(&change.digest).is_some()
    }

    /// Reads the artifact before it is handed out. One that does not match its digest is moved to
    /// quarantine, so that the next run recreates it.
    ///
    /// # Errors
    /// When it is damaged, missing, or unreadable.
    pub fn check(&self, digest: &Digest) -> Result<()> {
        let path = self.object(digest);
        if self.examine(digest).is_some() {
            return Ok(());
        }
        if fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            let error = Error::usage(format!("artifact `{}` is no longer in the store", digest.short()));
            return Err(error.hint("run `erw run` to make it again"));
        }
        match self.set_aside(digest) {
            Ok(()) => Err(damaged(digest).hint("it was moved to quarantine; run `erw run` to make it again")),
            Err(e) if refuse_unreadable(&path).is_err() => Err(e),
            Err(e) => {
                Err(damaged(digest).because(e).hint("run `erw run` to make it again, once the cache is writable"))
            }
        }
    }

    /// Moves an artifact that was found damaged to quarantine.
    ///
    /// # Errors
    /// When it is not damaged but unreadable for this user, or cannot be moved.
    pub fn set_aside(&self, digest: &Digest) -> Result<()> {
        refuse_unreadable(&self.object(digest))?;
        self.writable()?;
        self.quarantine(digest)
    }

    /// Moves a damaged artifact to quarantine, for later inspection.
    pub fn quarantine(&self, digest: &Digest) -> Result<()> {
        self.quarantine_path(&self.object(digest))
    }

    pub fn quarantine_path(&self, path: &Path) -> Result<()> {
        let folder = self.v1("quarantine");
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = folder.join(format!("{name}{}", unique().replace(".tmp-", ".")));
        match relocate_sealed(path, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| Error::io("quarantine", path, e)),
        }
    }

    /// Paths of everything in a two-level bucket (`store`, `actions`).
    pub fn bucket(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for sub in list(&self.v1(name))? {
            if sub.is_dir() {
                all.extend(list(&sub)?);
            }
        }
        Ok(all)
    }
}

const LOCK: &str = "v1/lock";

/// How much later than its mark the last use of a record may be.
pub const USE_SLACK: Duration = Duration::from_secs(3600);

/// Sets the time of a file to now. A file of another user may keep its time.
pub fn touch(path: &Path) {
    // The kernel's current time: only the owner may set any other, not the rest of the group.
    let (now, follow) = (&TimeSpec::UTIME_NOW, UtimensatFlags::FollowSymlink);
    let _ = utimensat(nix::fcntl::AT_FDCWD, path, now, now, follow);
}

fn root(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).map_err(|e| unusable(dir, dir, e))
}

fn unusable(dir: &Path, path: &Path, e: io::Error) -> Error {
    // Relative paths cannot be resolved then.
    let gone = path.is_relative() && std::env::current_dir().is_err();
    let why = if gone { "the current folder no longer exists".into() } else { format!("`{}`: {e}", path.display()) };
    Error::usage(format!("cannot use the cache folder `{}`", dir.display()))
        .because(why)
        .hint("choose another with `--cache-dir` or ERW_CACHE_DIR")
}

fn no_locks(dir: &Path, path: &Path, e: io::Error) -> Error {
    let none = matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK));
    let hint = "its file system does not support locks; enable them (Lustre: `-o flock`) or use another file system";
    unusable(dir, path, e).maybe_hint(none.then(|| hint.into()))
}

/// Creates what a cache folder lacks and opens its lock. An error comes with the path concerned.
fn prepare(root: &Path) -> Result<File, (PathBuf, io::Error)> {
    // An existing folder may contain more than a cache.
    let is_ours = !root.exists();
    for sub in ["v1/store", "v1/actions", "v1/work", "v1/locks", "v1/files", "v1/trees", "runs"] {
        let folder = root.join(sub);
        fs::create_dir_all(&folder).map_err(|e| (folder, e))?;
    }
    let tag = root.join("CACHEDIR.TAG");
    if !tag.exists() {
        let ignore = root.join(".gitignore");
        if is_ours {
            write_atomic(&ignore, b"*\n").map_err(|e| (ignore, e))?;
        }
        write_atomic(&tag, TAG.as_bytes()).map_err(|e| (tag, e))?;
    }
    let path = root.join(LOCK);
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    file.map_err(|e| (path, e))
}

/// Whether the error means that writing is not permitted, though reading may be.
fn is_refusal(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// The lock of a read-only cache, if there is one.
fn lock_to_read(dir: &Path, root: &Path, refused: &Error) -> Result<Option<File>> {
    for sub in ["v1/store", "v1/actions"] {
        let folder = root.join(sub);
        fs::read_dir(&folder).map_err(|e| match is_refusal(&e) {
            true => unusable(dir, &folder, e),
            // Not a cache at all.
            false => refused.clone(),
        })?;
    }
    let path = root.join(LOCK);
    match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(|e| unusable(dir, &path, e)),
    }
}

/// # Errors
/// When this user may not read a file or folder at or below `path`.
pub fn refuse_unreadable(path: &Path) -> Result<()> {
    let refused = |path: &Path, e: io::Error| match e.kind() {
        io::ErrorKind::PermissionDenied => Err(Error::io("read", path, e)),
        _ => Ok(()),
    };
    for entry in walkdir::WalkDir::new(path) {
        match entry {
            Err(e) => {
                let below = e.path().unwrap_or(path).to_path_buf();
                e.into_io_error().map_or(Ok(()), |e| refused(&below, e))?;
            }
            Ok(entry) if entry.file_type().is_file() => {
                File::open(entry.path()).map(drop).or_else(|e| refused(entry.path(), e))?;
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// The error for an artifact that does not match its digest.
pub fn damaged(digest: &Digest) -> Error {
    Error::new(ErrorKind::Damaged, format!("artifact `{}` is damaged", digest.short()))
}

/// How an artifact was changed.
#[derive(Debug)]
pub struct Tampering {
    pub digest: Digest,
    /// Entries that were changed or removed; empty if the artifact is a single file or cannot be
    /// read.
    pub altered: Vec<PathBuf>,
    pub added: Vec<PathBuf>,
    /// Entries that were added.
    pub kept: Vec<PathBuf>,
}

/// In a work folder: rejected outputs of an attempt.
pub const KEPT: &str = "kept";

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache")).unwrap();
        (dir, store)
    }

    #[test]
    fn publishing_moves_seals_and_is_idempotent() {
        let (dir, store) = store();
        let out = dir.path().join("out");
        for _ in 0..2 {
            fs::create_dir_all(out.join("sub")).unwrap();
            fs::write(out.join("sub/a"), "x").unwrap();
            let measured = measure(&out).unwrap();
            store.publish(&out, &measured, Durability::Later).unwrap();
            let object = store.object(&measured.digest);
            assert_eq!(measure(&object).unwrap(), measured);
            assert!(fs::metadata(object.join("sub/a")).unwrap().permissions().readonly());
            assert_eq!(store.look(&measured), Presence::Whole);
        }
    }

    #[test]
    fn a_truncated_artifact_is_seen_and_replaced() {
        let (dir, store) = store();
        let out = dir.path().join("out");
        fs::write(&out, "hello").unwrap();
        let measured = measure(&out).unwrap();
        store.publish(&out, &measured, Durability::Later).unwrap();
        let object = store.object(&measured.digest);
        fs::remove_file(&object).unwrap();
        fs::write(&object, "hel").unwrap();
        assert_eq!(store.look(&measured), Presence::Damaged);
        fs::write(&out, "hello").unwrap();
        store.publish(&out, &measured, Durability::Later).unwrap();
        assert_eq!(fs::read(object).unwrap(), b"hello");
        assert_eq!(list(&store.v1("quarantine")).unwrap().len(), 1);
    }

    #[test]
    fn rot_that_keeps_the_size_is_replaced_when_the_contents_come_again() {
        let (dir, store) = store();
        let out = dir.path().join("out");
        fs::write(&out, "hello").unwrap();
        let measured = measure(&out).unwrap();
        store.publish(&out, &measured, Durability::Later).unwrap();
        let object = store.object(&measured.digest);
        fs::remove_file(&object).unwrap();
        fs::write(&object, "hellO").unwrap();
        fs::write(&out, "hello").unwrap();
        store.publish(&out, &measured, Durability::Later).unwrap();
        assert_eq!(fs::read(object).unwrap(), b"hello");
    }

    #[test]
    fn a_key_is_locked_once_and_gc_waits_for_runs() {
        let (dir, store) = store();
        let key: Key = Digest::of_bytes(b"k").into();
        let held = store.try_lock(&key).unwrap();
        assert!(held.is_some());
        assert!(store.try_lock(&key).unwrap().is_none());
        drop(held);
        assert!(store.try_lock(&key).unwrap().is_some());
        assert!(Store::open_alone(&dir.path().join("cache")).unwrap_err().message.contains("a run is using"));
        drop(store);
        assert!(Store::open_alone(&dir.path().join("cache")).is_ok());
    }
}
