//! A disk that is full at every single write of a run, one after another.

use super::{SIDE_BY_SIDE, clear, diamond, digests, undisturbed};
use crate::support::deadline::Deadline;
use crate::support::disk::Disk;
use crate::support::space::{Said, Space};
use std::process::Command;

/// Enough for any run here.
const PLENTY: &str = "size=16m,nr_inodes=10000";

/// Runs with ever more room until a run succeeds; after each failure there is room, and the next
/// run must end well. Returns how many failed; `None` where mounting is not allowed.
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
fn a_disk_with_few_pages() {
    // Pages of 4 KiB: every small file takes one.
    let Some(failed) = squeeze(|room| format!("size={}k", 4 * room)) else { return };
    assert!(failed > 3, "{failed}");
}

#[test]
fn a_disk_with_few_inodes() {
    let Some(failed) = squeeze(|room| format!("size=16m,nr_inodes={room}")) else { return };
    assert!(failed > 15, "{failed}");
}

/// Needs no rights: no process may write files beyond so many bytes.
fn limited(space: &Space, bytes: usize) -> Said {
    let erw = space.command(&[&["run", "p.toml", "--plain"][..], &SIDE_BY_SIDE].concat());
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--fsize={bytes}")).arg("sh").args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    limited.arg(erw.get_program()).args(erw.get_args()).current_dir(space.path("."));
    limited.env_remove("ERW_CACHE_DIR").stdin(std::process::Stdio::null());
    Said::from(limited.finish())
}

#[test]
fn a_limit_on_file_size() {
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
