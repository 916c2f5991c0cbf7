//! Folders of the cache that cannot be written to. Root ignores permissions, so attributes are set
//! too.

use super::{SIDE_BY_SIDE, clear, diamond, digests, undisturbed};
use crate::support::disk::{Disk, Frozen};
use crate::support::space::Space;
use std::path::PathBuf;

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
        let Some(frozen) = Frozen::new(space.path("cache").join(folder)) else { return };
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

/// A file of each sort, frozen, while everything runs again.
#[test]
fn a_file_of_the_cache_is_read_only() {
    let good = undisturbed();
    let space = diamond();
    assert_eq!(digests(&space), good);
    let again: Vec<&str> = good.keys().flat_map(|stage| ["--force", stage]).collect();
    let sort = |path: &PathBuf| path.strip_prefix(space.path("cache")).unwrap().iter().take(2).collect::<PathBuf>();
    let mut files = super::files(&space.path("cache"));
    files.retain(|f| !f.starts_with(space.path("cache/runs")));
    files.dedup_by_key(|f| sort(f));
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let name = sort(&file);
        let Some(frozen) = Frozen::file(file) else { return };
        let said = space.run(&[&SIDE_BY_SIDE[..], &again].concat());
        if said.status != 0 {
            clear(&said);
            assert!(said.stderr.contains(name.to_str().unwrap()), "{name:?}: {}", said.stderr);
        }
        drop(frozen);
        assert_eq!(digests(&space), good, "{name:?}");
    }
}

#[test]
fn the_disk_of_the_cache_is_read_only() {
    let space = diamond();
    let Some(disk) = Disk::mount(space.path("cache"), "size=16m") else { return };
    let good = digests(&space);
    let export = ["export", "p.toml", "sink.o"];
    space.erw(&[&export[..], &["before"]].concat()).expect(0);
    disk.remount("ro");
    // What needs no writing is answered.
    assert!(space.plan(&[]).ends_with("all 6 stages are cached\n"));
    assert_eq!(super::told(&space.erw(&["run", "p.toml", "--json"])), good);
    space.erw(&[&export[..], &["after"]].concat()).expect(0);
    assert_eq!(space.read("after/o"), space.read("before/o"));
    for args in [
        &["cache", "ls"][..],
        &["cache", "du"],
        &["cache", "verify"],
        &["cache", "tag"],
        &["show", "p.toml:sink.o"],
        &["log"],
        &["why", "p.toml", "end"],
        &["metrics", "p.toml"],
        &["compare", "p.toml", "p.toml"],
    ] {
        let said = space.erw(args);
        assert_eq!(said.status, 0, "{args:?}: {}", said.stderr);
    }
    // What needs it says what is in the way.
    for args in [&["cache", "gc"][..], &["cache", "untag", "x"], &["run", "p.toml", "--force", "a", "--plain"]] {
        let said = space.erw(args);
        clear(&said);
        assert!(said.stderr.contains("cannot use the cache folder `cache`"), "{}", said.stderr);
    }
    let said = space.run(&["--force", "a"]);
    assert!(said.stderr.contains("Read-only file system"), "{}", said.stderr);
    disk.remount("rw");
    assert_eq!(digests(&space), good);
}
