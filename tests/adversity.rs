//! Stages that do not behave: none may leave a wrong result or a store that cannot be trusted.

use crate::support::space::Space;

fn writer(run: &str) -> Space {
    Space::new(&format!(
        r#"
name = "p"
[stages.a]
kind = "command"
run = "echo a >> ran; mkdir {{outputs.o}}; echo good > {{outputs.o}}/f; touch -d '2001-01-01' {{outputs.o}}/f"
outputs = {{ o = "folder" }}
[stages.b]
kind = "command"
inputs = {{ x = "a" }}
run = "{run}"
outputs = {{ o = "text" }}
[stages.c]
kind = "command"
inputs = {{ x = "a", after = "b" }}
run = "cat {{inputs.x}}/f > {{outputs.o}}"
outputs = {{ o = "text" }}
"#
    ))
}

#[test]
fn a_stage_that_writes_to_its_input_fails_and_the_input_is_made_again() {
    for run in [
        "echo oops > {outputs.o}; chmod u+w {inputs.x}/f; printf 'evil\\n' > {inputs.x}/f",
        "echo oops > {outputs.o}; echo more > {inputs.x}/g",
        "mv {inputs.x}/f {outputs.o}",
    ] {
        let run = run.replace('\\', "\\\\");
        let space = writer(&run);
        let said = space.run(&[]).expect(1);
        assert!(said.stderr.contains("stage `b`: the stage wrote to its input `x`"), "{}", said.stderr);
        space.write("p.toml", &space.read("p.toml").replace(&run, "cp {inputs.x}/f {outputs.o}"));
        space.run(&[]).expect(0);
        assert_eq!(space.read("ran"), "a\na\n", "{run}");
        assert_eq!(space.outputs()["c"], "good\n");
        space.erw(&["cache", "verify"]).expect(0);
    }
}

#[test]
fn a_hard_link_to_an_input_is_no_writing() {
    let space = writer("ln {inputs.x}/f {outputs.o}");
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["c"], "good\n");
}

#[test]
fn what_a_stage_left_running_ends_with_it() {
    let space = writer("(sleep 30; echo late >> late) & echo b > {outputs.o}");
    space.run(&[]).expect(0);
    assert_eq!(space.read("late"), "", "the run waited for a child in the background");
}

#[test]
fn links_in_outputs_are_refused_and_nothing_is_recorded() {
    let space = writer("ln -s /etc/hostname {outputs.o}");
    let said = space.run(&[]).expect(1);
    assert!(said.stderr.contains("is a symbolic link"), "{}", said.stderr);
    assert_eq!(space.bucket("actions").len(), 1);
}
