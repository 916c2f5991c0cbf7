//! Whatever happens to a run, the next one ends with the artifacts of an undisturbed one, or with
//! one error that says what is damaged and how to repair it. A module for each kind of fault.
//!
//! Moments are drawn at random. A failing test shows its seed, and `ERW_SURVIVE_SEED` repeats it;
//! what a process does at such a moment still depends on the machine.

mod clock_jumps;
mod concurrent_runs;
mod damage;
mod damage_by_stages;
mod full_disk;
mod kills;
mod large_graphs;
mod misbehaving_stages;
mod odd_names;
mod old_formats;
mod orphans;
mod read_only;
mod secrets;

use crate::support::space::{Said, Space};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One source, three stages beside each other that leave checkpoints, and two that join what they
/// made. Every script ends at its first failing command, as a pipeline's should.
const DIAMOND: &str = r#"
name = "diamond"
[stages.a]
kind = "command"
run = "set -e; tr a-z A-Z < src > {outputs.o}"
outputs = { o = "text" }
watch = ["src"]
resources = { threads = 1 }
LEGS
[stages.sink]
kind = "command"
run = "set -e; cat {inputs.x}/* {inputs.y}/* {inputs.z}/* > {outputs.o}; mkdir {outputs.p}; cp {outputs.o} {outputs.p}/copy"
inputs = { x = "x", y = "y", z = "z" }
outputs = { o = "text", p = "folder" }
resources = { threads = 1 }
[stages.end]
kind = "command"
run = ["cp", "{inputs.p}/copy", "{outputs.o}"]
inputs = { p = "sink.p", o = "sink.o" }
outputs = { o = "text" }
resources = { threads = 1 }
"#;

const LEG: &str = r#"
[stages.NAME]
kind = "command"
run = """
set -e
n=$(cat {checkpoints}/n 2>/dev/null || echo 0)
while [ $n -lt 6 ]; do
    n=$((n + 1)); sleep 0.01; echo $n > {checkpoints}/n.new; mv {checkpoints}/n.new {checkpoints}/n
done
mkdir {outputs.o}
for i in 1 2 3; do (echo NAME $i of $n; cat {inputs.x}) > {outputs.o}/f$i; done
"""
inputs = { x = "a" }
outputs = { o = "folder" }
resources = { threads = 1 }
"#;

/// All legs run beside each other.
const SIDE_BY_SIDE: [&str; 2] = ["--threads", "3"];

fn diamond() -> Space {
    let legs: String = ["x", "y", "z"].map(|name| LEG.replace("NAME", name)).concat();
    let space = Space::new(&DIAMOND.replace("LEGS", &legs));
    space.write("src", "some words\n");
    space
}

/// Runs to the end and returns the digests of the outputs of each stage. Every artifact is read and
/// found whole.
#[track_caller]
fn digests(space: &Space) -> BTreeMap<String, Vec<String>> {
    let digests = told(&space.erw(&[&["run", "p.toml", "--json"][..], &SIDE_BY_SIDE].concat()));
    space.erw(&["cache", "verify"]).expect(0);
    digests
}

/// The digests that a run with `--json` told.
#[track_caller]
fn told(said: &Said) -> BTreeMap<String, Vec<String>> {
    assert_eq!(said.status, 0, "{}{}", said.stdout, said.stderr);
    let events = said.stdout.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let digest = |o: &serde_json::Value| o["digest"].as_str().unwrap().to_string();
    let end = |e: serde_json::Value| {
        let outputs = e["outputs"].as_array().unwrap().iter().map(digest).collect();
        (e["stage"].as_str().unwrap().to_string(), outputs)
    };
    events.filter(|e| e["event"] == "ended").map(end).collect()
}

/// Those of a diamond that nothing happens to.
fn undisturbed() -> BTreeMap<String, Vec<String>> {
    digests(&diamond())
}

fn wipe(space: &Space) {
    space.open("cache");
    std::fs::remove_dir_all(space.path("cache")).unwrap();
}

/// A failure that a user can act on: an exit code for it, no panic, and words.
#[track_caller]
fn clear(said: &Said) {
    assert!(matches!(said.status, 1 | 2 | 4), "exit code {}\n{}", said.status, said.stderr);
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
    assert!(said.stderr.lines().any(|l| l.starts_with("error: ")), "{}", said.stderr);
}

/// Every file below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().map(|e| e.unwrap());
    all.filter(|e| e.file_type().is_file()).map(|e| e.into_path()).collect()
}

/// Is this process at work? One that nobody has buried yet is not.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
