//! Folders of the cache that cannot be written to. Root passes by permissions, so what stops it is used too.

use super::full::Disk;
use super::{SIDE_BY_SIDE, clear, diamond, digests, note, undisturbed};
use crate::support::space::Space;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder in which nothing can be made or removed while this lives.
struct Frozen(PathBuf);

impl Frozen {
    /// `None` where neither permissions nor attributes stop this user.
    fn new(path: PathBuf) -> Option<Self> {
        mode(&path, 0o555);
        let _ = Command::new("chattr").arg("+i").arg(&path).output();
        let frozen = Self(path);
        let probe = frozen.0.join("probe");
        let stopped = std::fs::write(&probe, "").is_err();
        let _ = std::fs::remove_file(probe);
        stopped.then_some(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).output();
        mode(&self.0, 0o755);
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

const FOLDERS: [&str; 10] =
    ["", "v1", "v1/store", "v1/actions", "v1/work", "v1/locks", "v1/files", "v1/trees", "v1/logs", "runs"];

/// With folders that are there and empty: one that is not there cannot be frozen.
fn prepared() -> Space {
    let space = diamond();
    FOLDERS.iter().for_each(|f| std::fs::create_dir_all(space.path("cache").join(f)).unwrap());
    space
}

#[test]
fn a_folder_of_the_cache_is_read_only() {
    let good = undisturbed();
    for folder in FOLDERS {
        let space = prepared();
        let Some(frozen) = Frozen::new(space.path("cache").join(folder)) else {
            note("nothing stops this user from writing here; a disk that is read-only stands in");
            return;
        };
        let said = space.run(&SIDE_BY_SIDE);
        // Journals, logs and what makes later runs quicker may be lost without harm.
        let needed = ["", "v1", "v1/store", "v1/actions", "v1/work", "v1/locks"].contains(&folder);
        assert_eq!(said.status != 0, needed, "`{folder}`: {}", said.stderr);
        if needed {
            clear(&said);
            assert!(said.stderr.contains(folder), "{}", said.stderr);
        }
        drop(frozen);
        assert_eq!(digests(&space), good, "`{folder}`");
    }
}

#[test]
fn the_disk_of_the_cache_is_read_only() {
    let space = diamond();
    let Some(disk) = Disk::mount(space.path("cache"), "size=16m") else {
        note("mounting is not allowed here; frozen folders stand in");
        return;
    };
    let good = digests(&space);
    disk.remount("ro");
    let said = space.run(&SIDE_BY_SIDE);
    clear(&said);
    assert!(said.stderr.contains("cannot use the cache folder `cache`"), "{}", said.stderr);
    assert!(said.stderr.contains("Read-only file system"), "{}", said.stderr);
    disk.remount("rw");
    assert_eq!(digests(&space), good);
}
