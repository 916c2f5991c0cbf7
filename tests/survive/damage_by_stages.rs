//! Stages that write where they must not, or end with half of their work done.
//!
//! Guarantees: a program that writes to its own inputs fails, and they are made again. Every
//! artifact is verified before a run first uses it, and again if its metadata changed since, so the
//! next user of another artifact in the store notices damage. The output folder of an attempt
//! starts empty. Writes of one running program into the output folder of another cannot be told
//! from that one's own, and a program that reports success is believed.

use super::clear;
use crate::support::space::Space;

/// `a` and `b` make one line each, `c` joins them after `evil` has run.
fn with(evil: &str) -> Space {
    let text = r#"
[stages.a]
kind = "command"
run = "echo a >> ran; echo from a > {outputs.o}"
outputs = { o = "text" }
[stages.b]
kind = "command"
run = "echo b >> ran; cp {inputs.a} {outputs.o}; echo from b >> {outputs.o}"
inputs = { a = "a" }
outputs = { o = "text" }
[stages.evil]
kind = "command"
run = """EVIL"""
inputs = { b = "b" }
outputs = { o = "text" }
[stages.c]
kind = "command"
run = "cat {inputs.a} {inputs.b} > {outputs.o}"
inputs = { a = "a", b = "b", after = "evil" }
outputs = { o = "text" }
"#;
    Space::new(&text.replace("EVIL", evil))
}

/// The artifact `from a`, which is not an input of `evil`.
const SPOIL_A: &str = r#"for f in cache/v1/store/*/*; do
    if [ "$(cat $f)" = 'from a' ]; then chmod u+w $f; printf 'from A\\n' > $f; fi
done; echo done > {outputs.o}"#;

fn good() -> String {
    let space = with("echo done > {outputs.o}");
    space.run(&[]).expect(0);
    space.outputs()["c"].clone()
}

#[test]
fn an_artifact_damaged_by_a_stage_is_noticed_by_the_next_run() {
    let space = with(SPOIL_A);
    space.run(&["evil"]).expect(0);
    space.run(&[]).expect(0);
    assert_eq!(space.read("ran"), "a\nb\na\n", "what was spoilt is made again");
    assert_eq!(space.outputs()["c"], good());
    space.erw(&["cache", "verify"]).expect(0);
}

#[test]
fn an_artifact_damaged_by_a_stage_is_noticed_in_the_same_run() {
    let space = with(SPOIL_A);
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["c"], good());
}

#[test]
fn a_damaged_unused_artifact_does_not_stop_a_run() {
    let space = with(
        "mkdir -p cache/v1/store/ab; echo x > cache/v1/store/ab/abcd; echo x > cache/v1/store/x; echo done > {outputs.o}",
    );
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["c"], good());
    let said = space.erw(&["cache", "verify"]).expect(4);
    assert!(said.stderr.contains("store/ab/abcd"), "{}", said.stderr);
    space.erw(&["cache", "verify"]).expect(0);
    space.erw(&["cache", "gc"]).expect(0);
    assert!(space.run(&[]).expect(0).stdout.contains("all 4 stages are cached"));
}

#[test]
fn leftovers_in_an_output_folder_are_removed_first() {
    let text = r#"
[stages.s]
kind = "command"
run = "FIRST; echo one > {outputs.o}/one"
outputs = { o = "folder" }
"#;
    let space = Space::new(&text.replace("FIRST", "mkdir {outputs.o}; [ -e go ] || exit 1"));
    space.run(&[]).expect(1);
    let work = std::fs::read_dir(space.path("cache/v1/work")).unwrap().next().unwrap().unwrap().path();
    std::fs::create_dir_all(work.join("attempt-2/o")).unwrap();
    std::fs::write(work.join("attempt-2/o/junk"), "junk").unwrap();
    std::fs::write(work.join("attempt-2/junk"), "junk").unwrap();
    space.write("go", "");
    space.run(&[]).expect(0);
    let artifact = space.bucket("store").remove(0);
    assert_eq!(std::fs::read_dir(artifact).unwrap().count(), 1);
}

#[test]
fn partial_output_of_a_failed_program_is_not_kept() {
    for end in ["exit 1", "kill -9 $$", "kill -TERM $$", "kill -SEGV $$"] {
        let text = "[stages.s]\nkind = \"command\"\nrun = \"mkdir {outputs.o}; echo half > {outputs.o}/f; [ -e go ] || END; echo whole > {outputs.o}/f\"\noutputs = { o = \"folder\" }\n";
        let space = Space::new(&text.replace("END", end));
        let said = space.run(&[]).expect(1);
        clear(&said);
        assert!(space.bucket("store").is_empty() && space.bucket("actions").is_empty(), "{end}");
        space.write("go", "");
        space.run(&[]).expect(0);
        assert_eq!(std::fs::read_to_string(space.bucket("store")[0].join("f")).unwrap(), "whole\n", "{end}");
    }
}

#[test]
fn the_cache_is_deleted_during_a_stage() {
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"[ -e go ] || rm -rf cache; mkdir -p $(dirname {outputs.o}); echo x > {outputs.o}\"\noutputs = { o = \"text\" }\n",
    );
    let said = space.run(&[]);
    assert!(!said.stderr.contains("panicked") && said.status < 64, "{}", said.stderr);
    space.write("go", "");
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["s"], "x\n");
}

/// Nobody but the program can tell: it is believed, until it is told to run again.
#[test]
fn incomplete_output_of_a_successful_program_is_repaired_by_force() {
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"echo half > {outputs.o}; [ -e go ] || exit 0; echo whole > {outputs.o}\"\noutputs = { o = \"text\" }\n",
    );
    space.run(&[]).expect(0);
    space.write("go", "");
    assert_eq!(space.outputs()["s"], "half\n");
    space.run(&["--force", "s"]).expect(0);
    assert_eq!(space.outputs()["s"], "whole\n");
}
