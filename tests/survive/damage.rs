//! Flipped bits and truncation, in every file of a cache in turn.

use super::{SIDE_BY_SIDE, diamond, digests, files, undisturbed};
use crate::support::dice::Dice;
use crate::support::space::{Space, spoil};
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// The ways in which a file goes bad.
fn spoilt(good: &[u8], dice: &mut Dice) -> Vec<(&'static str, Vec<u8>)> {
    let mut flipped = good.to_vec();
    if !flipped.is_empty() {
        flipped[dice.below(good.len() as u64) as usize] ^= 1 << dice.below(8);
    }
    let mut all = vec![("flipped", flipped), ("cut", good[..good.len() / 2].to_vec()), ("emptied", vec![])];
    all.push(("lengthened", [good, b"\n"].concat()));
    all.retain(|(_, bytes)| bytes != good);
    all
}

/// Spoils every file of `cache` in each way, and runs again after a full reading of the cache.
fn spoil_each(space: &Space, cache: &Path) {
    let mut dice = Dice::new();
    let good = undisturbed();
    for file in files(cache) {
        let name = file.strip_prefix(cache).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        for (how, bad) in spoilt(&bytes, &mut dice) {
            let _ = std::fs::remove_dir_all(space.path("cache"));
            copy(cache, &space.path("cache"));
            spoil(&space.path("cache").join(name), &bad);
            let verified = space.erw(&["cache", "verify"]);
            let kept = ["v1/store", "v1/actions"].iter().any(|f| name.starts_with(f));
            assert_eq!(verified.status, if kept { 4 } else { 0 }, "{name:?} {how}: {}", verified.stderr);
            if kept {
                let hint = "moved to quarantine; `erw run` makes what it needs again";
                assert!(verified.stderr.contains(hint), "{}", verified.stderr);
            }
            assert_eq!(digests(space), good, "{name:?} {how}");
        }
    }
}

#[test]
fn damage_to_a_finished_run_is_repaired() {
    let space = diamond();
    space.run(&SIDE_BY_SIDE).expect(0);
    std::fs::rename(space.path("cache"), space.path("whole")).unwrap();
    spoil_each(&space, &space.path("whole"));
}

/// Checkpoints are the stage's own; what it makes of a damaged one is its affair, and the kinds of
/// this program digest theirs. All else in a work folder is written anew.
#[test]
fn damage_to_a_suspended_run_is_repaired() {
    let space = diamond();
    let pipeline = space.read("p.toml");
    space.write(
        "p.toml",
        &pipeline.replace("mkdir {outputs.o}", "mkdir {outputs.o}; echo half > {outputs.o}/f9; exit 1"),
    );
    space.run(&[&SIDE_BY_SIDE[..], &["--keep-going"]].concat()).expect(1);
    space.write("p.toml", &pipeline);
    // The same stages under the keys of the whole pipeline.
    let mut child = space.start(&SIDE_BY_SIDE);
    space.until("checkpoints", || files(&space.path("cache/v1/work")).iter().any(|f| f.ends_with("checkpoints/n")));
    child.kill().unwrap();
    child.wait().unwrap();
    space.until("the workers to end", || {
        let locks = std::fs::read_dir(space.path("cache/v1/locks")).unwrap().map(|e| e.unwrap().path());
        locks.into_iter().all(|l| std::fs::File::open(l).unwrap().try_lock().is_ok())
    });
    for checkpoint in
        files(&space.path("cache/v1/work")).iter().filter(|f| f.parent().unwrap().ends_with("checkpoints"))
    {
        std::fs::remove_file(checkpoint).unwrap();
    }
    std::fs::rename(space.path("cache"), space.path("whole")).unwrap();
    spoil_each(&space, &space.path("whole"));
}

#[test]
fn damage_to_a_record_is_found_without_verify() {
    let mut dice = Dice::new();
    let good = undisturbed();
    let space = diamond();
    space.run(&SIDE_BY_SIDE).expect(0);
    let objects = space.bucket("store");
    let names: Vec<String> = objects.iter().map(|o| o.file_name().unwrap().to_string_lossy().into()).collect();
    for record in space.bucket("actions") {
        let bytes = std::fs::read(&record).unwrap();
        // Whole as JSON, and with the digest of something else.
        let text = String::from_utf8(bytes.clone()).unwrap();
        let (check, body) = text.split_at(text.find("\"outputs\"").unwrap());
        let own = names.iter().find(|n| body.contains(*n)).unwrap();
        let other = names.iter().find(|n| *n != own).unwrap();
        let mut bads = spoilt(&bytes, &mut dice);
        bads.push(("exchanged", format!("{check}{}", body.replacen(own, other, 1)).into_bytes()));
        for (_, bad) in bads {
            spoil(&record, &bad);
            assert_eq!(digests(&space), good, "{}", record.display());
        }
    }
}

#[test]
fn folders_in_place_of_files_and_the_reverse_are_repaired() {
    let good = undisturbed();
    let whole = diamond();
    whole.run(&SIDE_BY_SIDE).expect(0);
    for file in files(&whole.path("cache")) {
        let name = file.strip_prefix(whole.path("cache")).unwrap();
        let space = diamond();
        copy(&whole.path("cache"), &space.path("cache"));
        let path = space.path("cache").join(name);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let said = space.run(&SIDE_BY_SIDE);
        if said.status != 0 {
            // In the way of a lock or a record: it is named, and taking it away is enough.
            super::clear(&said);
            assert!(said.stderr.contains(path.file_name().unwrap().to_str().unwrap()), "{}", said.stderr);
            std::fs::remove_dir(&path).unwrap();
        }
        let _ = space.erw(&["cache", "verify"]);
        assert_eq!(digests(&space), good, "{name:?}");
    }
}
