//! Clocks that jump: modification times in the future and the past, of sources and of the cache.

use super::{SIDE_BY_SIDE, diamond, digests, files};
use crate::support::space::Space;
use std::fs::{File, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn moments() -> [SystemTime; 4] {
    let now = SystemTime::now();
    [SystemTime::UNIX_EPOCH, now - YEAR, now + YEAR, now + 50 * YEAR]
}

fn date(path: &Path, to: SystemTime) {
    File::open(path).unwrap().set_times(FileTimes::new().set_modified(to).set_accessed(to)).unwrap();
}

fn all_cached(space: &Space) {
    let said = space.run(&SIDE_BY_SIDE).expect(0);
    assert!(said.stdout.contains("all 6 stages are cached"), "{}", said.stdout);
}

#[test]
fn modification_times_in_the_cache_do_not_matter() {
    let space = diamond();
    let good = digests(&space);
    for to in moments() {
        files(&space.path("cache")).iter().for_each(|f| date(f, to));
        all_cached(&space);
        assert_eq!(digests(&space), good);
    }
}

#[test]
fn modification_times_of_a_source_do_not_matter() {
    let space = diamond();
    space.run(&SIDE_BY_SIDE).expect(0);
    for to in moments() {
        date(&space.path("src"), to);
        all_cached(&space);
    }
}

#[test]
fn a_change_is_seen_whatever_its_modification_time() {
    for to in moments() {
        let space = diamond();
        date(&space.path("src"), to);
        let good = digests(&space);
        // A file is remembered only when it has been left alone for two seconds.
        std::thread::sleep(Duration::from_millis(2100));
        all_cached(&space);
        let memory = files(&space.path("cache/v1/files"));
        let remembered = memory.iter().any(|f| std::fs::read_to_string(f).unwrap().lines().count() > 2);
        assert_eq!(remembered, to < SystemTime::now(), "a time in the future says nothing about later changes");
        // Same length, same modification time.
        std::fs::write(space.path("src"), "some WORDS\n".replace("WORDS", "wordz")).unwrap();
        date(&space.path("src"), to);
        let changed = digests(&space);
        assert_ne!(changed["a"], good["a"]);
        // Back again, with another time.
        std::fs::write(space.path("src"), "some words\n").unwrap();
        date(&space.path("src"), SystemTime::now() - 2 * YEAR);
        assert_eq!(digests(&space), good);
    }
}

#[test]
fn sources_and_outputs_with_odd_times_are_cached() {
    let run = r#"touch -d "2099-01-01" src; echo x > {outputs.o}; touch -d "1971-01-01" {outputs.o}"#;
    let text =
        format!("[stages.s]\nkind = \"command\"\nrun = '{run}'\noutputs = {{ o = \"text\" }}\nwatch = [\"src\"]\n");
    let space = Space::new(&text);
    space.write("src", "1");
    space.run(&[]).expect(0);
    assert!(space.run(&[]).expect(0).stdout.contains("the stage is cached") || space.plan(&[]).contains("cached"));
}
