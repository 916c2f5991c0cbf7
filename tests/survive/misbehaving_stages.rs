//! Misbehaving stages: none may leave a wrong result or a store that cannot be trusted.

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
    for (run, named) in [
        ("echo oops > {outputs.o}; chmod u+w {inputs.x}/f; printf 'evil\\n' > {inputs.x}/f", "f"),
        ("mv {inputs.x}/f {outputs.o}", "f"),
        ("echo oops > {outputs.o}; chmod +x {inputs.x}/f", "f"),
        ("echo oops > {outputs.o}; cd {inputs.x}; rm f; mkdir f; echo more > f/g", "f"),
    ] {
        let run = run.replace('\\', "\\\\");
        let space = writer(&run);
        let said = space.run(&[]).expect(1);
        let error = format!("stage `b`: the stage wrote to its input `x`: `{named}`");
        assert!(said.stderr.contains(&error), "{}", said.stderr);
        space.write("p.toml", &space.read("p.toml").replace(&run, "cp {inputs.x}/f {outputs.o}"));
        space.run(&[]).expect(0);
        assert_eq!(space.read("ran"), "a\na\n", "{run}");
        assert_eq!(space.outputs()["c"], "good\n");
        space.erw(&["cache", "verify"]).expect(0);
    }
}

/// What was put into an input goes again; the input is worth as much as before.
#[test]
fn a_stage_that_adds_to_its_input_fails_and_the_input_stays() {
    for (run, named) in [
        ("echo more > {inputs.x}/g", "`g`"),
        ("mkdir -p {inputs.x}/new/er; echo more > {inputs.x}/new/er/g", "`new/er/g`"),
        ("mkdir {inputs.x}/new", "`new`"),
        ("ln -s /etc {inputs.x}/away", "`away`"),
        (
            "mkdir {inputs.x}/__pycache__; echo more > {inputs.x}/__pycache__/a.pyc; echo more > {inputs.x}/g",
            "`__pycache__/a.pyc`, `g`",
        ),
    ] {
        let space = writer(&format!("echo oops > {{outputs.o}}; chmod u+w {{inputs.x}}; {run}"));
        let said = space.run(&[]).expect(1);
        let error = format!("stage `b`: the stage wrote to its input `x`: {named}\n");
        assert!(said.stderr.contains(&error), "{}", said.stderr);
        assert!(said.stderr.contains("its outputs are kept in `"), "{}", said.stderr);
        space.write("p.toml", &space.read("p.toml").replace(run, "true"));
        space.run(&[]).expect(0);
        assert_eq!(space.read("ran"), "a\n", "{run}");
        assert_eq!(space.outputs()["c"], "good\n");
        space.erw(&["cache", "verify"]).expect(0);
    }
}

#[test]
fn tool_caches_are_removed_from_an_input_silently() {
    for run in [
        "mkdir {inputs.x}/__pycache__; echo more > {inputs.x}/__pycache__/gen.cpython-312.pyc",
        "mkdir -p {inputs.x}/.ipynb_checkpoints; touch {inputs.x}/.DS_Store",
    ] {
        let space = writer(&format!("echo fine > {{outputs.o}}; chmod u+w {{inputs.x}}; {run}"));
        space.run(&[]).expect(0);
        space.run(&["--force", "b"]).expect(0);
        assert_eq!(space.read("ran"), "a\n", "{run}");
        space.erw(&["cache", "verify"]).expect(0);
        let object = space.bucket("store").into_iter().find(|p| p.is_dir()).unwrap();
        assert_eq!(object.read_dir().unwrap().count(), 1);
        // Dropped by something that is no stage, it is no damage either.
        space.open(object.strip_prefix(space.path("")).unwrap().to_str().unwrap());
        std::fs::create_dir(object.join("__pycache__")).unwrap();
        std::fs::write(object.join("__pycache__/x.pyc"), "x").unwrap();
        space.run(&["--force", "c"]).expect(0);
        assert_eq!(space.read("ran"), "a\n", "{run}");
        assert_eq!(object.read_dir().unwrap().count(), 1);
    }
}

#[test]
fn a_hard_link_to_an_input_is_not_a_write() {
    let space = writer("ln {inputs.x}/f {outputs.o}");
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["c"], "good\n");
}

#[test]
fn processes_that_a_stage_left_running_are_ended() {
    let space = writer("(sleep 30; echo late >> late) & echo b > {outputs.o}");
    space.run(&[]).expect(0);
    assert_eq!(space.read("late"), "", "the run waited for a child in the background");
}

#[test]
fn an_output_that_is_a_link_is_refused_and_nothing_is_recorded() {
    let space = writer("ln -s /etc/hostname {outputs.o}");
    let said = space.run(&[]).expect(1);
    assert!(said.stderr.contains("is a symbolic link"), "{}", said.stderr);
    assert_eq!(space.bucket("actions").len(), 1);
}
