//! `erw cache gc`: removal by age, size and reachability, what is kept, and the lists that help to
//! decide.

use crate::support::space::Space;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Two stages of a thousand bytes each and one of two thousand that needs the first.
const THREE: &str = r#"
name = "three"
[stages.a]
kind = "command"
run = "echo a >> ran; echo said; head -c 1000 /dev/zero > {outputs.o}"
outputs = { o = "text" }
params = { n = 1 }
[stages.b]
kind = "command"
run = "echo b >> ran; head -c 1000 /dev/zero | tr '\\0' b > {outputs.o}"
outputs = { o = "text" }
[stages.c]
kind = "command"
run = "echo c >> ran; cat {inputs.x} {inputs.x} > {outputs.o}"
inputs = { x = "a" }
outputs = { o = "text" }
"#;

fn three() -> Space {
    let space = Space::new(THREE);
    space.run(&[]).expect(0);
    space.ran();
    space
}

/// Which stages' records are there.
fn recorded(space: &Space) -> Vec<String> {
    let mut all: Vec<String> = space.bucket("actions").iter().map(|p| field(p, "stage")).collect();
    all.sort();
    all
}

fn field(record: &PathBuf, name: &str) -> String {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    json["record"][name].as_str().unwrap().to_string()
}

fn record(space: &Space, stage: &str) -> PathBuf {
    space.bucket("actions").into_iter().find(|p| field(p, "stage") == stage).unwrap()
}

/// Says that a record was last used so long ago, and that no stored answer was given since.
fn age(space: &Space, stage: &str, days: u64) {
    let _ = std::fs::remove_dir_all(space.path("cache/v1/memos"));
    let time = SystemTime::now() - Duration::from_secs(days * 86_400);
    std::fs::File::open(record(space, stage)).unwrap().set_modified(time).unwrap();
}

fn gc(space: &Space, args: &[&str]) -> String {
    space.erw(&[&["cache", "gc"], args].concat()).expect(0).stdout
}

/// A run with nothing to do reads no record, but uses all of them.
#[test]
fn what_the_stored_answer_counts_as_cached_was_used() {
    let space = three();
    let mark = |stage: &str, hours: u64| {
        let time = SystemTime::now() - Duration::from_secs(hours * 3600);
        std::fs::File::open(record(&space, stage)).unwrap().set_modified(time).unwrap();
    };
    for stage in ["a", "b", "c"] {
        mark(stage, 23);
    }
    std::fs::remove_dir_all(space.path("cache/v1/memos")).unwrap();
    // Stored again, and asked.
    space.run(&["c"]).expect(0);
    space.run(&["c"]).expect(0);
    let said = gc(&space, &["--older-than", "12h", "-v"]);
    assert_eq!(recorded(&space), ["a", "c"], "{said}");
    // The answers are gone, their times are not.
    gc(&space, &["--older-than", "12h"]);
    assert_eq!(recorded(&space), ["a", "c"]);

    // An answer that was given again later counts from then.
    let space = three();
    space.run(&["a"]).expect(0);
    std::thread::sleep(Duration::from_millis(20));
    space.run(&["b"]).expect(0);
    std::thread::sleep(Duration::from_millis(20));
    space.run(&["a"]).expect(0);
    std::fs::remove_file(record(&space, "c")).unwrap();
    gc(&space, &["--max-size", "1000"]);
    assert_eq!(recorded(&space), ["a"]);
}

#[test]
fn unused_artifacts_are_removed_with_their_logs() {
    let space = three();
    age(&space, "a", 40);
    age(&space, "b", 20);
    let logs = space.path("cache/v1/logs");
    assert_eq!(logs.read_dir().unwrap().count(), 1);
    let dry = gc(&space, &["--older-than", "30d", "-n", "-v"]);
    let key = record(&space, "a").file_stem().unwrap().to_str().unwrap()[..12].to_string();
    assert!(dry.starts_with("would remove 1 record, 1 artifact, 0 work folders: 1005 B\n"), "{dry}");
    assert!(dry.contains("  not used for 30 d 00 h  1 record  1 artifact  1000 B\n"), "{dry}");
    assert!(dry.contains(&format!("{key}  three/a  last used 40 d 00 h ago  not used for 30 d 00 h\n")), "{dry}");
    assert_eq!(recorded(&space), ["a", "b", "c"]);
    let wet = gc(&space, &["--older-than", "30d"]);
    assert_eq!(wet.lines().next(), Some("removed 1 record, 1 artifact, 0 work folders: 1005 B"));
    assert_eq!(recorded(&space), ["b", "c"]);
    assert_eq!(logs.read_dir().unwrap().count(), 0);
}

#[test]
fn a_cache_hit_counts_as_use() {
    let space = three();
    for stage in ["a", "b", "c"] {
        age(&space, stage, 40);
    }
    space.run(&["b"]).expect(0);
    space.plan(&[]);
    gc(&space, &["--older-than", "30d"]);
    assert_eq!(recorded(&space), ["b"], "a run uses, a plan does not");
}

#[test]
fn the_least_recently_used_is_removed_until_the_rest_fits() {
    let space = three();
    age(&space, "b", 3);
    age(&space, "a", 2);
    age(&space, "c", 1);
    assert!(gc(&space, &["--max-size", "4000"]).starts_with("removed 0 records, 0 artifacts,"));
    let said = gc(&space, &["--max-size", "3999"]);
    assert!(said.contains("  over 3.9 KiB  1 record  1 artifact  1000 B\n"), "{said}");
    assert_eq!(recorded(&space), ["a", "c"]);
    gc(&space, &["--max-size", "2kB"]);
    assert_eq!(recorded(&space), ["c"]);
    gc(&space, &["--max-size", "0"]);
    assert!(recorded(&space).is_empty() && space.bucket("store").is_empty());
}

#[test]
fn a_record_stays_while_its_artifact_is_shared() {
    let space = three();
    // Another action with the same bytes, used lately.
    space.run(&["--set", "a.n=2", "a"]).expect(0);
    let twins: Vec<PathBuf> = space.bucket("actions").into_iter().filter(|p| field(p, "stage") == "a").collect();
    let old = SystemTime::now() - Duration::from_secs(9 * 86_400);
    std::fs::File::open(&twins[0]).unwrap().set_modified(old).unwrap();
    age(&space, "b", 8);
    gc(&space, &["--max-size", "3000"]);
    assert_eq!(recorded(&space), ["a", "a", "c"], "removing one of two that share their bytes frees nothing");
}

#[test]
fn tags_keep_what_they_name() {
    let space = three();
    assert_eq!(space.erw(&["cache", "tag"]).expect(0).stdout, "no tags\n");
    assert_eq!(space.erw(&["cache", "tag", "paper-1.0", "p.toml:a"]).expect(0).stdout, "paper-1.0: 1 artifact\n");
    let b = space
        .bucket("store")
        .into_iter()
        .find(|p| std::fs::read(p).unwrap()[0] == b'b' && p.metadata().unwrap().len() == 1000);
    let digits = b.unwrap().file_name().unwrap().to_str().unwrap()[..8].to_string();
    space.erw(&["cache", "tag", "b", &digits]).expect(0);
    let listed = space.erw(&["cache", "tag"]).expect(0).stdout;
    assert!(listed.starts_with("b          1 artifact  20") && listed.contains(" p.toml:a\n"), "{listed}");
    gc(&space, &["--max-size", "0"]);
    assert_eq!(recorded(&space), ["a", "b"]);
    let object = space.bucket("store").into_iter().find(|p| p.to_string_lossy().contains(&digits)).unwrap();
    std::fs::rename(&object, space.path("away")).unwrap();
    let listed = space.erw(&["cache", "tag"]).expect(0).stdout;
    assert!(listed.lines().any(|l| l.starts_with("b ") && l.contains("1 artifact, 1 not in the store")), "{listed}");
    std::fs::rename(space.path("away"), object).unwrap();
    space.erw(&["cache", "untag", "b"]).expect(0);
    gc(&space, &["--max-size", "0"]);
    assert_eq!(recorded(&space), ["a"]);
    let said = space.erw(&["cache", "untag", "paper-1"]).expect(2);
    assert_eq!(said.stderr, "error: no tag `paper-1`\nhint: did you mean `paper-1.0`?\n");
    let said = space.erw(&["cache", "tag", "../x", "p.toml"]).expect(2);
    assert!(said.stderr.starts_with("error: stage `b` is not up to date\n"), "{}", said.stderr);
    let said = space.erw(&["cache", "tag", "../x", "p.toml:a"]).expect(2);
    assert!(said.stderr.starts_with("error: `../x` is not a valid tag name\n"), "{}", said.stderr);
    // What cannot be read may name anything: nothing goes.
    space.write("cache/v1/tags/paper-1.0.json", "{");
    let said = space.erw(&["cache", "gc", "--max-size", "0"]).expect(2);
    assert!(said.stderr.starts_with("error: the tag `paper-1.0` cannot be read\n"), "{}", said.stderr);
    assert_eq!(recorded(&space), ["a"]);
    space.erw(&["cache", "verify"]).expect(4);
    gc(&space, &["--max-size", "0"]);
    assert!(recorded(&space).is_empty());
}

#[test]
fn locks_keep_what_they_name() {
    let space = three();
    let key = record(&space, "b").file_stem().unwrap().to_str().unwrap().to_string();
    space.write("p.lock", &format!("format = 1\nprogram = \"\"\nclass = \"\"\n[stages.bee]\nkey = \"{key}\"\n"));
    let said = gc(&space, &["--keep-locks", "p.lock"]);
    assert!(said.contains("  not in use  2 records  2 artifacts  2.9 KiB\n"), "{said}");
    assert_eq!(recorded(&space), ["b"]);
    space.write("bad.lock", "format = 1\nprogram = \"\"\nclass = \"\"\n[stages.bee]\nkey = \"12\"\n");
    let said = space.erw(&["cache", "gc", "--keep-locks", "bad.lock"]).expect(2);
    assert!(
        said.stderr.starts_with("error: `bad.lock` is not a valid lock file: `12` is not a digest"),
        "{}",
        said.stderr
    );
    // Of another version, it may name what to keep in another way.
    space.write("new.lock", &space.read("p.lock").replace("format = 1", "format = 2"));
    let said = space.erw(&["cache", "gc", "--keep-locks", "new.lock"]).expect(2);
    assert!(said.stderr.starts_with("error: `new.lock` has format 2, this program reads 1\n"), "{}", said.stderr);
    space.write("empty.lock", "");
    space.erw(&["cache", "gc", "--keep-locks", "empty.lock"]).expect(2);
    assert_eq!(recorded(&space), ["b"]);
}

#[test]
fn kept_pipelines_are_exempt_from_age_and_size_limits() {
    let space = three();
    space.run(&["--set", "a.n=2", "a"]).expect(0);
    std::fs::remove_dir_all(space.path("cache/v1/memos")).unwrap();
    for path in space.bucket("actions") {
        let old = SystemTime::now() - Duration::from_secs(50 * 86_400);
        std::fs::File::open(path).unwrap().set_modified(old).unwrap();
    }
    gc(&space, &["--keep-pipelines", "p.toml", "--older-than", "30d"]);
    assert_eq!(recorded(&space), ["a", "b", "c"], "only the twin that the pipeline does not use went");
    gc(&space, &["--keep-pipelines", "p.toml", "--max-size", "0"]);
    assert_eq!(recorded(&space), ["a", "b", "c"]);
}

#[test]
fn the_work_of_a_job_that_waits_is_left_alone() {
    let space = Space::new("[stages.s]\nkind = \"command\"\nrun = \"exit 1 # {outputs.o}\"\noutputs = { o = \"t\" }\n");
    space.run(&[]).expect(1);
    let work = std::fs::read_dir(space.path("cache/v1/work")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(work.join("placed.json"), "{}").unwrap();
    gc(&space, &[]);
    assert!(work.exists());
    std::fs::remove_file(work.join("placed.json")).unwrap();
    gc(&space, &[]);
    assert!(!work.exists());
}

#[test]
fn gc_refuses_while_a_stage_runs() {
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"touch began; while ! [ -e go ]; do sleep 0.02; done; echo > {outputs.o}\"\noutputs = { o = \"t\" }\n",
    );
    let mut run = space.start(&[]);
    space.until("the stage", || space.path("began").exists());
    let said = space.erw(&["cache", "gc", "--max-size", "0"]).expect(2);
    assert!(said.stderr.starts_with("error: a run is using the cache folder `cache`\n"), "{}", said.stderr);
    space.write("go", "");
    assert!(run.wait().unwrap().success());
}

#[test]
fn ls_and_du_name_pipelines_and_sizes() {
    let space = three();
    space.write("q.toml", &THREE.replace("three", "other").replace("'\\\\0' b", "'\\\\0' q"));
    space.erw(&["run", "q.toml", "b"]).expect(0);
    let loose = space.path("cache/v1/store/ab");
    std::fs::create_dir_all(&loose).unwrap();
    std::fs::write(loose.join("ab".repeat(32)), "x").unwrap();
    let ls = |args: &[&str]| space.erw(&[&["cache", "ls"], args].concat()).expect(0).stdout;
    assert!(ls(&[]).ends_with("5 artifacts, 4.9 KiB\n"), "{}", ls(&[]));
    assert!(ls(&["--pipeline", "other"]).ends_with(" text  1000 B  other/b\n1 artifact, 1000 B\n"));
    assert!(ls(&["--kind", "command"]).ends_with("4 artifacts, 4.9 KiB\n"));
    assert_eq!(ls(&["--unused"]), "abababababab  -  1 B  no record\n1 artifact, 1 B\n");
    let json: serde_json::Value = serde_json::from_str(&ls(&["--json", "--pipeline", "other"])).unwrap();
    assert_eq!(json[0]["made_by"][0]["stage"], "b");
    assert_eq!(json[0]["bytes"], 1000);
    assert_eq!(
        space.erw(&["cache", "du"]).expect(0).stdout,
        "by kind\n  command      4.9 KiB  4 artifacts\n  (no record)  1 B      1 artifact\n\
         by pipeline\n  three        3.9 KiB  3 artifacts\n  other        1000 B   1 artifact\n  (no record)  1 B      1 artifact\n\
         5 artifacts, 4.9 KiB\n"
    );
    let said = space.erw(&["cache", "tag", "x", "ffffffff"]).expect(2);
    assert_eq!(said.stderr, "error: no artifact `ffffffff` in the cache\nhint: run `erw cache ls` to list them\n");
}
