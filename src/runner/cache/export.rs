//! Copies artifacts out of the cache into a folder. An artifact is read in full and verified first,
//! and the folder appears whole or not at all. Does not know which artifacts a user means.

use super::store::Store;
use crate::files::digest::{self, Measured};
use crate::files::disk::{self, copy_all, unique};
use crate::files::lexical::place;
use erw_base::error::{Error, Result};
use std::fs::FileType;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How files are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportMode {
    /// Writable copies. Blocks are shared where the file system supports it.
    Copy,
    /// Hard links to the files in the store: read-only, and on the same file system only.
    Link,
}

/// An artifact and its name in the export.
#[derive(Debug, Clone)]
pub struct Item {
    pub name: String,
    pub measured: Measured,
}

/// Lets `write` fill a new folder, which then becomes `to`: whole or not at all. `force`: replace
/// what is there.
///
/// # Errors
/// When `to` is occupied, and those of `write`.
pub fn publish(to: &Path, force: bool, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let occupied = std::fs::symlink_metadata(to).is_ok() && !is_empty_folder(to);
    if occupied && !force {
        let error = Error::usage(format!("`{}` already exists", to.display()));
        return Err(error.hint("choose another folder, or pass `--force` to replace it"));
    }
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
    let beside = parent.join(unique());
    let create = std::fs::create_dir(&beside).map_err(|e| Error::io("create", &beside, e));
    let written = create.and_then(|()| write(&beside)).and_then(|()| put_in_place(&beside, to));
    if written.is_err() {
        let _ = disk::remove(&beside);
    }
    written
}

/// Checks that `--force` does not delete the cache, the pipeline, the current folder or a parent of
/// any of them.
///
/// # Errors
/// When it would.
pub fn check_target(store: &Store, pipeline: &Path, to: &Path) -> Result<()> {
    let (to, cache) = (place(to), place(store.root()));
    let why = if to.starts_with(&cache) {
        "it is inside the cache folder"
    } else if cache.starts_with(&to) {
        "it contains the cache folder"
    } else if std::env::current_dir().is_ok_and(|here| place(&here).starts_with(&to)) {
        "it is or contains the current folder"
    } else if place(pipeline).starts_with(&to) {
        "it contains the pipeline"
    } else {
        return Ok(());
    };
    let error = Error::usage(format!("cannot export to `{}`", to.display())).because(why);
    Err(error.hint("choose another folder; it is created if it does not exist"))
}

fn is_empty_folder(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Copies one artifact into `folder` (a single file is put into it under its name), or several as
/// subfolders of it. Returns where each is.
///
/// # Errors
/// When an artifact is damaged, or cannot be copied.
pub fn copy(store: &Store, items: &[Item], folder: &Path, how: ExportMode) -> Result<Vec<PathBuf>> {
    items.iter().try_for_each(|item| store.check(&item.measured.digest))?;
    let one = |item: &Item| {
        let from = store.object(&item.measured.digest);
        let alone = items.len() == 1 && from.is_dir();
        let place = if alone { folder.to_path_buf() } else { folder.join(&item.name) };
        match how {
            ExportMode::Copy => {
                copy_all(&from, &place).and_then(|()| make_writable(&place)).map_err(|e| Error::io("copy", &from, e))?
            }
            ExportMode::Link => link_all(&from, &place)?,
        }
        Ok(place)
    };
    items.iter().map(one).collect()
}

/// Every file and folder at or below `root`.
pub fn files(root: &Path) -> Result<Vec<(PathBuf, FileType)>> {
    let entry = |e: walkdir::Result<walkdir::DirEntry>| e.map(|e| (e.path().to_path_buf(), e.file_type()));
    let all = walkdir::WalkDir::new(root).into_iter().map(entry).collect::<walkdir::Result<Vec<_>>>();
    all.map_err(|e| Error::io("read", root, e.into()))
}

fn make_writable(root: &Path) -> std::io::Result<()> {
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry?;
        if entry.file_type().is_symlink() {
            continue;
        }
        let mode = entry.metadata()?.permissions().mode();
        std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode | 0o200))?;
    }
    Ok(())
}

fn link_all(from: &Path, to: &Path) -> Result<()> {
    for (path, kind) in files(from)? {
        let place = digest::join(to, path.strip_prefix(from).unwrap_or(Path::new("")));
        let made = if kind.is_dir() {
            std::fs::create_dir_all(&place)
        } else if kind.is_symlink() {
            std::fs::read_link(&path).and_then(|to| std::os::unix::fs::symlink(to, &place))
        } else {
            std::fs::hard_link(&path, &place)
        };
        made.map_err(|e| match e.kind() {
            std::io::ErrorKind::CrossesDevices => Error::usage(format!("cannot link to `{}`", place.display()))
                .because("it is on a different file system than the cache")
                .hint("omit `--link` to copy instead"),
            _ => Error::io("link to", &place, e),
        })?;
    }
    Ok(())
}

/// Moves the old folder aside first and deletes it last.
fn put_in_place(beside: &Path, to: &Path) -> Result<()> {
    let old = to.with_file_name(unique());
    let stepped = std::fs::rename(to, &old);
    if let Err(e) = std::fs::rename(beside, to) {
        let _ = stepped.and_then(|()| std::fs::rename(&old, to));
        return Err(Error::io("write", to, e));
    }
    disk::remove(&old).map_err(|e| Error::io("remove", &old, e))
}
