//! Files on disk: atomic writes, moves, copies, read-only sealing, removal. Does not know their
//! contents.

use super::digest::Kind;
use erw_base::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::SystemTime;

/// Above this many files, one flush of the file system is cheaper than one per file.
const FLUSH_EACH: usize = 32;

/// When a new file must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before it is named: results that took long must survive a power failure.
    Now,
    /// With the next [`crate::cache::store::Store::sync`]. A power failure before that costs a
    /// rerun of the action, which took less time than forcing its files to disk one by one
    /// (measured: 8 ms each). It cannot cause a wrong result: records have a check, and an artifact
    /// is compared with its digest before it is used.
    Later,
}

/// The sorted entries of a folder; empty if it does not exist.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("list", dir, e);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(failed)?,
    };
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Whether a file is there, also one that another host has made. Its folder is listed, because a file
/// system on the network remembers for a while that a file was not there.
pub fn is_seen(path: &Path) -> bool {
    path.parent().is_some_and(|folder| list(folder).is_ok_and(|all| all.iter().any(|seen| seen == path)))
}

/// Moves a file or folder. Onto another file system, it is first copied next to the target, so that
/// it appears atomically there too.
pub(crate) fn relocate(from: &Path, to: &Path, keep: Durability) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {}
        other => return other,
    }
    let beside = to.with_file_name(unique());
    let moved = copy_all(from, &beside).and_then(|()| seal(&beside, keep)).and_then(|()| fs::rename(&beside, to));
    if moved.is_err() {
        let _ = remove(&beside);
    }
    moved.and_then(|()| remove(from))
}

/// Moves a folder that may be sealed: it must be writable meanwhile, because moving changes its
/// `..` entry.
pub(crate) fn relocate_sealed(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && from.is_dir() => {
            open_folder(from)?;
            fs::rename(from, to)
        }
        other => other,
    }
}

/// Copies a file or folder with the permissions of files and with links as links. Where the file
/// system can, the copy shares blocks with the original: `fs::copy` asks the kernel to copy.
pub fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry?;
        let place = super::digest::join(to, entry.path().strip_prefix(from).unwrap_or(Path::new("")));
        let kind = entry.file_type();
        if kind.is_dir() {
            fs::create_dir_all(&place)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &place)?;
        } else {
            fs::copy(entry.path(), &place)?;
        }
    }
    Ok(())
}

/// A name for an unfinished file, unique across hosts. Gc recognises its prefix.
pub fn unique() -> String {
    let random = getrandom::u64().unwrap_or_else(|_| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32)
    });
    format!(".tmp-{random:016x}")
}

/// Writes a value as JSON, like [`write_file`].
pub fn write_json(path: &Path, value: &impl Serialize, keep: Durability) -> Result<()> {
    let written = serde_json::to_vec_pretty(value).map_err(Into::into).and_then(|text| write_file(path, &text, keep));
    written.map_err(|e| Error::io("write", path, e))
}

/// The value in a file of JSON; `None` if there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| Error::io("parse", path, e.into())),
    }
}

/// Writes a file atomically and durably: at every instant, even after a power failure, the old or
/// the new one is complete.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_file(path, bytes, Durability::Now)
}

/// Writes a file atomically for other processes. With [`Durability::Later`] a power failure may
/// leave it incomplete: only for files that are verified when read.
pub fn write_file(path: &Path, bytes: &[u8], keep: Durability) -> io::Result<()> {
    write_noted(path, bytes, keep).map(drop)
}

/// The same; also returns the metadata from before the file became visible.
pub fn write_noted(path: &Path, bytes: &[u8], keep: Durability) -> io::Result<fs::Metadata> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let temporary = parent.join(unique());
    let create = || match File::create(&temporary) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(parent).and_then(|()| File::create(&temporary))
        }
        other => other,
    };
    let written = create()
        .and_then(|mut f| {
            f.write_all(bytes)?;
            if keep == Durability::Now {
                f.sync_all()?;
            }
            f.metadata()
        })
        .and_then(|looks| fs::rename(&temporary, path).map(|()| looks));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    let looks = written?;
    if keep == Durability::Now {
        sync_dir(parent)?;
    }
    Ok(looks)
}

/// A rename is durable only once its folder is.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes the outputs of a program readable, sealable and removable for this user. A file that has
/// other hard links or another owner is replaced by a copy, so that the original stays untouched.
pub(crate) fn own(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        open_folder(path)?;
        // Listed first, because copies are created and removed in the listed folders.
        let inside = fs::read_dir(path)?.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>()?;
        return inside.iter().try_for_each(|path| own(path));
    }
    if !metadata.is_file() {
        return Ok(());
    }
    // Root may do anything with other users' files.
    static ME: LazyLock<Option<u32>> = LazyLock::new(|| fs::metadata("/proc/self").ok().map(|m| m.uid()));
    let is_mine = ME.is_none_or(|me| me == 0 || metadata.uid() == me);
    if metadata.nlink() > 1 || !is_mine {
        let copy = path.with_file_name(unique());
        return fs::copy(path, &copy)
            .and_then(|_| fs::rename(&copy, path))
            .inspect_err(|_| drop(fs::remove_file(&copy)));
    }
    let mode = metadata.permissions().mode();
    if mode & 0o400 == 0 { fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o400)) } else { Ok(()) }
}

/// Gives the owner full access to a folder.
fn open_folder(path: &Path) -> io::Result<()> {
    let mode = fs::symlink_metadata(path)?.permissions().mode();
    if mode & 0o700 == 0o700 { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o700)) }
}

/// Makes every file read-only and, with [`Durability::Now`], forces everything to disk.
/// [`seal_folders`] closes the folders after they were moved.
pub(crate) fn seal(path: &Path, keep: Durability) -> io::Result<()> {
    let mut files = 0;
    let mut dirs = Vec::new();
    for entry in walkdir::WalkDir::new(path) {
        let entry = entry?;
        if entry.file_type().is_dir() {
            dirs.push(entry.into_path());
            continue;
        }
        if entry.file_type().is_symlink() {
            continue;
        }
        let metadata = entry.metadata()?;
        let mode = if Kind::of_file(&metadata) == Kind::Program { 0o555 } else { 0o444 };
        if metadata.permissions().mode() & 0o7777 != mode {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
        }
        files += 1;
        if keep == Durability::Now && files <= FLUSH_EACH {
            File::open(entry.path())?.sync_all()?;
        }
    }
    if keep == Durability::Later {
        return Ok(());
    }
    if files > FLUSH_EACH {
        return nix::unistd::syncfs(File::open(path)?).map_err(io::Error::from);
    }
    dirs.iter().try_for_each(|d| sync_dir(d))
}

/// Makes the folders of an artifact read-only, so that nothing can be added.
pub(crate) fn seal_folders(path: &Path) -> io::Result<()> {
    for entry in walkdir::WalkDir::new(path).contents_first(true) {
        let entry = entry?;
        if entry.file_type().is_dir() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o555))?;
        }
    }
    Ok(())
}

/// Removes a file or folder, including read-only folders in it; a missing one is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path).or_else(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => open_folders(path).and_then(|()| fs::remove_dir_all(path)),
            _ => Err(e),
        }),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match gone {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Gives the owner full access to a folder and all folders below.
pub(crate) fn open_folders(path: &Path) -> io::Result<()> {
    open_folder(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the files that were added to an artifact, and then folders that are empty and not
/// parents of anything in `kept`.
pub(crate) fn remove_added(root: &Path, added: &[PathBuf], kept: &[PathBuf]) -> io::Result<()> {
    open_folders(root)?;
    for path in added {
        remove(&root.join(path))?;
        let parents = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
        for parent in parents.take_while(|parent| !kept.iter().any(|k| k.starts_with(parent))) {
            match fs::remove_dir(root.join(parent)) {
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => break,
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    seal_folders(root)
}
