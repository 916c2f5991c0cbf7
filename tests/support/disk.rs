//! Disks that are full and folders that are read-only, where the user of the tests may make them.

use super::skip;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory, gone when this is.
pub struct Disk(PathBuf);

impl Disk {
    /// `None`, and the test is skipped, where mounting is not allowed.
    #[track_caller]
    pub fn mount(at: PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        if !mount(&at, options) {
            skip("this user cannot mount a file system in memory");
            return None;
        }
        Some(Self(at))
    }
    /// Leaves no room at all.
    pub fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        while std::io::Write::write(&mut filler, &[0; 4096]).is_ok() {}
    }
    pub fn remount(&self, options: &str) {
        assert!(mount(&self.0, &format!("remount,{options}")));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn mount(at: &Path, options: &str) -> bool {
    let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "erw-test"]).arg(at).output();
    done.is_ok_and(|o| o.status.success())
}

/// A folder in which nothing can be made or removed, or a file that cannot be written to, while
/// this lives.
pub struct Frozen {
    path: PathBuf,
    mode: u32,
}

impl Frozen {
    /// A folder. `None`, and the test is skipped, where neither permissions nor attributes stop
    /// this user.
    #[track_caller]
    pub fn new(path: PathBuf) -> Option<Self> {
        let frozen = Self::freeze(path, 0o555);
        let probe = frozen.path.join("probe");
        let stopped = std::fs::write(&probe, "").is_err();
        let _ = std::fs::remove_file(probe);
        frozen.unless_ignored(stopped)
    }
    #[track_caller]
    pub fn file(path: PathBuf) -> Option<Self> {
        let frozen = Self::freeze(path, 0o444);
        let stopped = std::fs::File::options().append(true).open(&frozen.path).is_err();
        frozen.unless_ignored(stopped)
    }
    #[track_caller]
    fn unless_ignored(self, stopped: bool) -> Option<Self> {
        if !stopped {
            skip("neither permissions nor `chattr +i` stop this user from writing");
        }
        stopped.then_some(self)
    }
    fn freeze(path: PathBuf, to: u32) -> Self {
        let before = std::fs::metadata(&path).unwrap().permissions().mode();
        mode(&path, to);
        let _ = Command::new("chattr").arg("+i").arg(&path).output();
        Self { path, mode: before }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.path).output();
        mode(&self.path, self.mode);
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
