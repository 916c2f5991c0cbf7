//! What tells an unchanged file without reading it, its [`Stamp`], and the sum of the stamps of all
//! files of a folder, a [`Total`]. A sum needs no list: a folder of a million files is compared with
//! how it was by looking at each file once, in any order, on all cores, and keeping nothing.
//!
//! Does not know what the files contain.

use crate::files::digest::join;
use crate::files::watched::Watched;
use rayon::prelude::*;
use std::fs::{DirEntry, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const SETTLED: Duration = Duration::from_secs(2);

/// Identifies an unchanged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub bytes: u64,
    pub mtime: i128,
    pub ctime: i128,
    pub inode: u64,
}

impl Stamp {
    pub fn of(m: &Metadata) -> Self {
        let ns = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
        Self {
            bytes: m.len(),
            mtime: ns(m.mtime(), m.mtime_nsec()),
            ctime: ns(m.ctime(), m.ctime_nsec()),
            inode: m.ino(),
        }
    }
    /// Last changed long enough before `now` (ns since the epoch) that a further change would show.
    pub fn is_settled(&self, now: i128) -> bool {
        self.mtime.max(self.ctime) + (SETTLED.as_nanos() as i128) < now
    }
}

/// The sum of 256-bit digests of path and stamp of each file, and how many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Total {
    sum: [u64; 4],
    files: u64,
}

impl Total {
    /// `path` is relative to the folder.
    pub fn add(self, path: &Path, stamp: &Stamp) -> Self {
        let Stamp { bytes, mtime, ctime, inode } = stamp;
        let mut hasher = blake3::Hasher::new();
        for number in [&bytes.to_le_bytes()[..], &mtime.to_le_bytes(), &ctime.to_le_bytes(), &inode.to_le_bytes()] {
            hasher.update(number);
        }
        let digest = hasher.update(path.as_os_str().as_bytes()).finalize();
        let (words, _) = digest.as_bytes().as_chunks::<8>();
        let mut sum = [0; 4];
        sum.iter_mut().zip(words).for_each(|(sum, word)| *sum = u64::from_le_bytes(*word));
        self.join(Self { sum, files: 1 })
    }

    pub fn join(self, other: Self) -> Self {
        let mut sum = self.sum;
        sum.iter_mut().zip(other.sum).for_each(|(sum, word)| *sum = sum.wrapping_add(word));
        Self { sum, files: self.files + other.files }
    }

    /// Of what a folder has now; `None` if it has anything but files, folders and links to files, or
    /// cannot be read.
    pub fn of(root: &Path, watched: Option<&Watched>) -> Option<Self> {
        below(root, Path::new(""), watched)
    }

    /// As text without spaces.
    pub fn text(&self) -> String {
        let [a, b, c, d] = self.sum;
        format!("{a:016x}{b:016x}{c:016x}{d:016x}-{}", self.files)
    }
}

/// Entries of a folder that are looked at before the next are listed.
const LISTED: usize = 4096;
/// Entries that one thread takes at a time.
const AT_A_TIME: usize = 256;

fn below(root: &Path, folder: &Path, watched: Option<&Watched>) -> Option<Total> {
    let mut listing = std::fs::read_dir(join(root, folder)).ok()?;
    let (mut total, mut folders) = (Total::default(), Vec::new());
    loop {
        let entries = listing.by_ref().take(LISTED).collect::<std::io::Result<Vec<_>>>().ok()?;
        if entries.is_empty() {
            break;
        }
        let look = |entry: &DirEntry| look(root, folder, entry, watched);
        let (files, found) = entries
            .par_iter()
            .with_min_len(AT_A_TIME)
            .map(look)
            .try_fold(Default::default, |(total, mut folders): (Total, Vec<PathBuf>), found| {
                let total = match found? {
                    Found::LeftOut => total,
                    Found::File(path, stamp) => total.add(&path, &stamp),
                    Found::Folder(path) => {
                        folders.push(path);
                        total
                    }
                };
                Some((total, folders))
            })
            .try_reduce(Default::default, |(a, some), (b, more)| Some((a.join(b), [some, more].concat())))?;
        total = total.join(files);
        folders.extend(found);
    }
    let inner = folders.into_par_iter().map(|folder| below(root, &folder, watched));
    inner.try_reduce(Total::default, |a, b| Some(a.join(b))).map(|inner| total.join(inner))
}

enum Found {
    LeftOut,
    File(PathBuf, Stamp),
    Folder(PathBuf),
}

/// `None` for what a sum of files cannot tell.
fn look(root: &Path, folder: &Path, entry: &DirEntry, watched: Option<&Watched>) -> Option<Found> {
    let kind = entry.file_type().ok()?;
    let path = folder.join(entry.file_name());
    if watched.is_some_and(|watched| watched.leaves_out(root, &root.join(&path), kind.is_dir())) {
        return Some(Found::LeftOut);
    }
    if kind.is_dir() {
        return Some(Found::Folder(path));
    }
    if watched.is_some_and(|watched| !watched.means(&path)) {
        return Some(Found::LeftOut);
    }
    // Relative to its folder, which is open; a link is followed by its path.
    let metadata = if kind.is_symlink() { std::fs::metadata(entry.path()) } else { entry.metadata() };
    let metadata = metadata.ok().filter(Metadata::is_file)?;
    Some(Found::File(path, Stamp::of(&metadata)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["x", "y/z"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for name in ["a", "x/a", "y/z/b"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        dir
    }

    fn stamped(root: &Path, name: &str) -> Total {
        Total::default().add(Path::new(name), &Stamp::of(&fs::metadata(root.join(name)).unwrap()))
    }

    #[test]
    fn a_total_is_of_names_and_stamps_in_any_order() {
        let dir = folder();
        let of = |names: [&str; 3]| names.iter().map(|n| stamped(dir.path(), n)).fold(Total::default(), Total::join);
        let whole = Total::of(dir.path(), None).unwrap();
        assert_eq!(whole, of(["a", "x/a", "y/z/b"]));
        assert_eq!(whole, of(["y/z/b", "a", "x/a"]));
        // More entries than are listed at once.
        (0..LISTED + 10).for_each(|i| fs::write(dir.path().join(format!("x/{i}")), "").unwrap());
        let more = Total::of(dir.path(), None).unwrap();
        assert_eq!(more.files, LISTED as u64 + 13);
        assert!(more.text().ends_with(&format!("-{}", more.files)));
    }

    #[test]
    fn every_change_changes_it() {
        let check = |what: &str, change: &dyn Fn(&Path)| {
            let dir = folder();
            let before = Total::of(dir.path(), None).unwrap();
            std::thread::sleep(Duration::from_millis(15));
            change(dir.path());
            assert_ne!(Total::of(dir.path(), None).unwrap(), before, "{what}");
        };
        check("bytes", &|root| fs::write(root.join("a"), "A").unwrap());
        check("length", &|root| fs::write(root.join("x/a"), "longer").unwrap());
        check("a name", &|root| fs::rename(root.join("a"), root.join("b")).unwrap());
        check("a place", &|root| fs::rename(root.join("a"), root.join("y/a")).unwrap());
        check("a new file", &|root| fs::write(root.join("y/new"), "").unwrap());
        check("a lost file", &|root| fs::remove_file(root.join("y/z/b")).unwrap());
    }

    #[test]
    fn links_to_files_count_as_files_and_others_are_left_to_a_listing() {
        let dir = folder();
        let plain = Total::of(dir.path(), None).unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        let linked = Total::of(dir.path(), None).unwrap();
        assert_eq!(linked, plain.join(stamped(dir.path(), "link")));
        symlink("nowhere", dir.path().join("y/broken")).unwrap();
        assert_eq!(Total::of(dir.path(), None), None);
        fs::remove_file(dir.path().join("y/broken")).unwrap();
        symlink("x", dir.path().join("folder")).unwrap();
        assert_eq!(Total::of(dir.path(), None), None);
        assert_eq!(Total::of(&dir.path().join("absent"), None), None);
    }

    #[test]
    fn what_is_left_out_does_not_count() {
        let dir = folder();
        let watched = |text: &str| Watched::of(text, dir.path(), &["z".to_string(), "*.log".to_string()]).unwrap();
        fs::write(dir.path().join("x/note.log"), "").unwrap();
        let (root, rule) = watched(".");
        let total = Total::of(&root, Some(&rule)).unwrap();
        assert_eq!(total.files, 2);
        let (root, rule) = watched("x/*");
        assert_eq!(Total::of(&root, Some(&rule)).unwrap().files, 1);
    }
}
