//! Caches written by another version: never a wrong hit, never an error.

use super::{SIDE_BY_SIDE, diamond, digests, files, undisturbed};
use crate::support::space::{Space, spoil};

const SIX_RAN: [&str; 6] = ["a", "end", "sink", "x", "y", "z"];

fn ran(space: &Space) -> Vec<String> {
    let said = space.run(&SIDE_BY_SIDE).expect(0);
    let mut ran: Vec<String> =
        said.stderr.lines().filter_map(|l| l.split_once(": started").map(|(s, _)| s.to_string())).collect();
    ran.sort();
    ran
}

/// After `change` to the records of a finished run, everything runs again and ends the same.
fn with_records(change: impl Fn(&str) -> String) {
    let good = undisturbed();
    let space = diamond();
    space.run(&SIDE_BY_SIDE).expect(0);
    for record in space.bucket("actions") {
        let text = std::fs::read_to_string(&record).unwrap();
        spoil(&record, change(&text).as_bytes());
    }
    space.erw(&["plan", "p.toml"]).expect(0);
    space.erw(&["cache", "ls"]).expect(0);
    space.erw(&["cache", "verify"]).expect(0);
    assert_eq!(ran(&space), SIX_RAN);
    assert_eq!(digests(&space), good);
}

#[test]
fn records_of_other_formats_are_ignored() {
    for format in ["0", "2", "17"] {
        with_records(|text| text.replacen("\"format\":1", &format!("\"format\":{format}"), 1));
        with_records(|_| format!("{{\"format\": {format}, \"all\": \"else\"}}\n"));
    }
}

#[test]
fn records_of_an_older_key_format_are_shown_but_not_used() {
    let good = undisturbed();
    let space = diamond();
    space.run(&SIDE_BY_SIDE).expect(0);
    for record in space.bucket("actions") {
        let text = std::fs::read_to_string(&record).unwrap();
        let body = text.split_once("\"record\":").unwrap().1.strip_suffix("}\n").unwrap();
        let body = body.replacen("erw key 1\\n", "erw key 0\\n", 1);
        let key_text =
            serde_json::from_str::<serde_json::Value>(&body).unwrap()["key_text"].as_str().unwrap().to_string();
        let (key, check) = (blake3::hash(key_text.as_bytes()).to_string(), blake3::hash(body.as_bytes()));
        let path = space.path(&format!("cache/v1/actions/{}/{key}.json", &key[..2]));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{{\"format\":1,\"check\":\"{check}\",\"record\":{body}}}\n")).unwrap();
        std::fs::remove_file(record).unwrap();
    }
    space.erw(&["cache", "verify"]).expect(0);
    assert_eq!(ran(&space), SIX_RAN);
    assert_eq!(digests(&space), good);
}

#[test]
fn the_folders_of_other_versions_are_left_alone() {
    let good = undisturbed();
    let space = diamond();
    for name in ["v0/store/ab/cd", "v2/actions/ab/cd.json", "v0/lock", "notes.txt"] {
        space.write(&format!("cache/{name}"), "foreign");
    }
    assert_eq!(digests(&space), good);
    space.erw(&["cache", "gc"]).expect(0);
    let foreign = files(&space.path("cache")).iter().filter(|f| std::fs::read(f).unwrap() == b"foreign").count();
    assert_eq!(foreign, 4);
}

#[test]
fn file_digests_in_another_format_are_ignored() {
    let good = undisturbed();
    let space = diamond();
    space.run(&SIDE_BY_SIDE).expect(0);
    let source = space.path("src").canonicalize().unwrap();
    let id = blake3::hash(source.as_os_str().as_encoded_bytes());
    let wrong = blake3::hash(b"wrong");
    for header in ["erw files 0", "erw files 2", "", "\0\0"] {
        let body = format!("{header}\n{wrong} 11 0 0 0 \"\"\n");
        let text = format!("{body}check {}\n", blake3::hash(body.as_bytes()));
        space.write(&format!("cache/v1/files/{id}.txt"), &text);
        assert_eq!(digests(&space), good, "{header}");
    }
}

#[test]
fn unknown_files_in_the_cache_are_ignored() {
    let good = undisturbed();
    let space = diamond();
    space.run(&SIDE_BY_SIDE).expect(0);
    for folder in ["v1/actions", "v1/actions/ab", "v1/work", "v1/locks", "v1/files", "v1/trees", "v1/logs", "runs"] {
        space.write(&format!("cache/{folder}/.DS_Store"), "x");
        space.write(&format!("cache/{folder}/a b\n/c"), "x");
    }
    assert_eq!(digests(&space), good);
    space.erw(&["plan", "p.toml"]).expect(0);
    space.erw(&["cache", "ls"]).expect(0);
    space.erw(&["cache", "gc"]).expect(0);
    assert_eq!(digests(&space), good);
}
