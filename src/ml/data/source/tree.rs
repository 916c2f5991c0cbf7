//! Lists the files of a folder tree as a set of images sees them. Links are followed, because data
//! sets are often made of links.

use super::belongs::hidden_part;
use super::label_list::LIST;
use super::left_out::LeftOut;
use super::name_list::NameList;
use candle_core::{Result, bail};
use memmap2::Mmap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use walkdir::WalkDir;

/// The contents of a folder.
#[derive(Debug, Default)]
pub struct Tree {
    /// Wanted files, relative to the folder, sorted by name.
    pub files: NameList,
    pub left_out: LeftOut,
    /// Top-level folders that hold none of the files.
    pub bare: Vec<String>,
}

/// Lists the files whose names are `wanted`, and those that are `listed`, hidden or not. A wanted
/// broken link is listed too, so that reading it reports the error.
pub fn list(root: &Path, wanted: &dyn Fn(&Path) -> bool, listed: &dyn Fn(&Path) -> bool) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut folders = BTreeSet::new();
    let mut walk = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        let path = match &entry {
            Ok(entry) => entry.path().to_path_buf(),
            Err(e) => e.path().unwrap_or(root).to_path_buf(),
        };
        let name = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
        let is_folder = entry.as_ref().is_ok_and(|e| e.file_type().is_dir());
        match entry {
            _ if hidden_part(&name).is_some() && !listed(&name) => {
                tree.left_out.hidden();
                if is_folder {
                    walk.skip_current_dir();
                }
            }
            Ok(_) if is_folder => {
                folders.extend(Some(name).filter(|name| name.components().count() == 1));
            }
            // Reading a pipe would block.
            Ok(e) if !e.file_type().is_file() => tree.left_out.special(),
            Ok(_) if listed(&name) || wanted(&name) => tree.files.push(&name),
            // The label list itself.
            Ok(_) if name == Path::new(LIST) => {}
            Ok(_) => tree.left_out.file(&name),
            Err(e) if e.loop_ancestor().is_some() => tree.left_out.circular_link(),
            Err(e) if leads_nowhere(&path, &e) => match listed(&name) || wanted(&name) {
                true => tree.files.push(&name),
                false => tree.left_out.broken_link(),
            },
            Err(e) => bail!("cannot list {}: {e}", root.display()),
        }
    }
    tree.files.shrink();
    for file in tree.files.iter() {
        if let Some(first) = file.components().next() {
            folders.remove(Path::new(first.as_os_str()));
        }
    }
    tree.bare = folders.into_iter().map(|name| name.display().to_string()).collect();
    Ok(tree)
}

/// Whether it is a broken link. A link that leads back to itself is one, too.
fn leads_nowhere(path: &Path, e: &walkdir::Error) -> bool {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
    is_link && e.io_error().is_some_and(|e| e.kind() != ErrorKind::PermissionDenied)
}

/// Maps a user's file. If another process truncates it during reading, this process is killed by a
/// signal; `mapped` reports which file it was.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) => bail!("cannot open {}: {e}", path.display()),
    };
    #[expect(unsafe_code, reason = "mapping a file that is read once and whose contents are only ever taken as bytes")]
    match unsafe { Mmap::map(&file) } {
        Ok(m) => Ok(m),
        Err(e) => bail!("cannot map {}: {e}", path.display()),
    }
}
