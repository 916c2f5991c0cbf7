//! The environment is not stored, and values become shell code only where a stage asks for it.

use super::files;
use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space};

const SECRET: &str = "hunter2-7f3a9c";

const HARMLESS: &str = r#"
[stages.s]
kind = "command"
run = "echo hello; FAIL; echo x > {outputs.o}"
outputs = { o = "text" }
"#;

fn run_with_secrets(space: &Space) -> Said {
    let mut command = space.command(&["run", "p.toml", "--plain"]);
    for name in ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "GITHUB_TOKEN", "MY_PASSWORD"] {
        command.env(name, SECRET);
    }
    Said::from(command.finish())
}

fn told(space: &Space) -> Vec<std::path::PathBuf> {
    let holds = |f: &std::path::PathBuf| String::from_utf8_lossy(&std::fs::read(f).unwrap()).contains(SECRET);
    files(&space.path("cache")).into_iter().filter(holds).collect()
}

#[test]
fn the_environment_is_not_stored() {
    for (fail, status) in [("true", 0), ("exit 1", 1), ("kill -9 $$", 1)] {
        let space = Space::new(&HARMLESS.replace("FAIL", fail));
        let said = run_with_secrets(&space).expect(status);
        assert!(!(said.stdout + &said.stderr).contains(SECRET));
        assert_eq!(told(&space), Vec::<std::path::PathBuf>::new(), "{fail}");
    }
}

#[test]
fn the_environment_is_in_no_key() {
    let space = Space::new(&HARMLESS.replace("FAIL", "true"));
    run_with_secrets(&space).expect(0);
    assert!(space.plan(&[]).contains("the stage is cached"));
}

#[test]
fn output_of_a_program_is_in_its_log_only() {
    let space = Space::new(&HARMLESS.replace("FAIL", "env"));
    run_with_secrets(&space).expect(0);
    let told = told(&space);
    assert!(told.iter().all(|f| f.extension().is_some_and(|e| e == "log")) && told.len() == 1, "{told:?}");
}

const NASTY: [&str; 8] = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "| touch pwned",
    "&& touch pwned",
    "x\ntouch pwned\n",
    "'; touch pwned; '",
    "\"; touch pwned; \"",
];

#[test]
fn values_in_a_list_are_never_executed() {
    for nasty in NASTY {
        let value = serde_json::Value::from(nasty);
        let space = Space::new(&format!(
            "[stages.s]\nkind = \"command\"\nrun = [\"sh\", \"-c\", \"printf %s \\\"$1\\\" > \\\"$2\\\"\", \"sh\", \"{{params.v}}\", \"{{outputs.o}}\"]\n\
             outputs = {{ o = \"text\" }}\nparams = {{ v = {value} }}\n"
        ));
        space.run(&[]).expect(0);
        assert_eq!(space.outputs()["s"], nasty);
        let said = space.run(&["--set", &format!("s.v={nasty}")]).expect(0);
        assert!(!space.path("pwned").exists(), "{nasty}: {}", said.stderr);
    }
}

#[test]
fn values_in_a_shell_line_are_inserted_as_text() {
    // Documented: a string goes to `sh -c` with its places filled in. Who needs any value to be
    // safe writes a list.
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"echo {params.v} > {outputs.o}\"\noutputs = { o = \"text\" }\nparams = { v = \"$((1 + 1))\" }\n",
    );
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["s"], "2\n");
}
