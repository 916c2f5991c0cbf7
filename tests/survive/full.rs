//! A disk that is full at every single write of a run, one after another.

use super::{SIDE_BY_SIDE, clear, diamond, digests, note, undisturbed};
use crate::support::space::{Said, Space};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Enough for any run here.
const PLENTY: &str = "size=16m,nr_inodes=10000";

/// A small file system in memory, gone when this is.
pub struct Disk(PathBuf);

impl Disk {
    /// `None` where mounting is not allowed.
    pub fn mount(at: PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        mount(&at, options).then_some(Self(at))
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

/// Runs with ever more room until a run succeeds; after each failure there is room, and the next run must end well.
/// Returns how many failed.
fn squeeze(options: impl Fn(usize) -> String) -> Option<usize> {
    let good = undisturbed();
    for room in 1..300 {
        let space = diamond();
        let disk = Disk::mount(space.path("cache"), &options(room))?;
        let said = space.run(&SIDE_BY_SIDE);
        if said.status == 0 {
            assert_eq!(digests(&space), good);
            return Some(room - 1);
        }
        clear(&said);
        disk.remount(PLENTY);
        assert_eq!(digests(&space), good, "after a run with room for {room}\n{}", said.stderr);
    }
    panic!("no room is ever enough");
}

#[test]
fn there_is_room_for_so_many_pages() {
    // Pages of 4 KiB: every small file takes one.
    match squeeze(|room| format!("size={}k", 4 * room)) {
        Some(failed) => assert!(failed > 3, "{failed}"),
        None => note("mounting is not allowed here; the limits on files stand in"),
    }
}

#[test]
fn there_is_room_for_so_many_files() {
    match squeeze(|room| format!("size=16m,nr_inodes={room}")) {
        Some(failed) => assert!(failed > 15, "{failed}"),
        None => note("mounting is not allowed here; the limits on files stand in"),
    }
}

/// Needs no rights: no process may write files beyond so many bytes.
fn limited(space: &Space, bytes: usize) -> Said {
    let erw = space.command(&[&["run", "p.toml", "--plain"][..], &SIDE_BY_SIDE].concat());
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--fsize={bytes}")).arg("sh").args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    limited.arg(erw.get_program()).args(erw.get_args()).current_dir(space.path("."));
    limited.env_remove("ERW_CACHE_DIR").stdin(std::process::Stdio::null());
    Said::from(limited.output().unwrap())
}

#[test]
fn files_end_at_so_many_bytes() {
    let good = undisturbed();
    let mut failed = 0;
    // Outputs are small; the job files and the records are the largest.
    for bytes in [0, 1, 10, 50, 150, 300, 600, 800, 1000, 1200, 1500, 2000, 3000] {
        let space = diamond();
        let said = limited(&space, bytes);
        if said.status != 0 {
            failed += 1;
            clear(&said);
        }
        assert_eq!(digests(&space), good, "after a run with files of up to {bytes} bytes");
    }
    assert!(failed > 3, "{failed}");
}

#[test]
fn an_error_says_that_the_disk_is_full() {
    let space = diamond();
    let Some(disk) = Disk::mount(space.path("cache"), PLENTY) else { return };
    space.run(&SIDE_BY_SIDE).expect(0);
    std::fs::remove_dir_all(space.path("cache/v1/actions")).unwrap();
    disk.fill();
    let said = space.run(&SIDE_BY_SIDE);
    clear(&said);
    let told = ["No space left on device", "the disk of the cache is full"];
    assert!(told.iter().any(|text| said.stderr.contains(text)), "{}", said.stderr);
}
