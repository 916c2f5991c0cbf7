//! `erw jobs` and `erw stop` for runs on one machine.

use crate::support::space::{Said, Space};
use serde_json::Value;

/// `slow` can be stopped and resumed, `other` is independent of it.
const TWO: &str = r#"
[stages.slow]
kind = "command"
run = """
trap 'exit 1' TERM
n=$(cat {checkpoints}/n 2>/dev/null || echo 0)
echo $((n + 1)) > {checkpoints}/n
while [ $n -lt 1 ]; do sleep 0.1; done
echo $n > {outputs.o}
"""
outputs = { o = "text" }
resources = { threads = 1 }

[stages.other]
kind = "command"
run = "while [ ! -e go ]; do sleep 0.1; done; echo other > {outputs.o}"
outputs = { o = "text" }
resources = { threads = 1 }
"#;

fn at_work(space: &Space) -> Vec<Value> {
    serde_json::from_str(&space.erw(&["jobs", "--json"]).expect(0).stdout).unwrap()
}

#[test]
fn stages_of_this_machine_are_listed_and_stopped() {
    let space = Space::new(TWO);
    assert_eq!(space.erw(&["jobs"]).expect(0).stdout, "nothing is queued or runs\n");
    let run = space.start(&["--jobs", "2", "--threads", "2"]);
    let has_begun = || {
        std::fs::read_dir(space.path("cache/v1/work"))
            .is_ok_and(|all| all.flatten().any(|work| work.path().join("checkpoints/n").exists()))
    };
    space.until("both to run", || has_begun() && at_work(&space).len() == 2);
    let found = at_work(&space);
    assert!(found.iter().all(|a| a["launcher"] == "local" && a["state"] == "running"), "{found:?}");
    // One alone: the other goes on.
    let said = space.erw(&["stop", "p.toml", "slow"]).expect(0);
    assert_eq!(said.stdout, "slow: asked to save a checkpoint and stop\n");
    space.until("it to stop", || at_work(&space).len() == 1);
    space.write("go", "");
    let said = Said::from(run.wait_with_output().unwrap()).expect(3);
    assert!(said.stderr.contains("stage `slow`: suspended"), "{}", said.stderr);
    // It resumes, and the request is not found again.
    assert_eq!(space.outputs()["slow"], "1\n");
}

#[test]
fn a_run_is_stopped_whole_and_others_are_not() {
    let space = Space::new(TWO);
    space.write("q.toml", &TWO.replace("echo other", "echo another"));
    let run = space.start(&["--jobs", "2", "--threads", "2"]);
    space.until("both to run", || at_work(&space).len() == 2);
    // Another pipeline, also with stages of these names.
    assert_eq!(space.erw(&["stop", "q.toml"]).expect(0).stdout, "nothing is queued or runs\n");
    assert_eq!(at_work(&space).len(), 2);
    let said = space.erw(&["stop", "p.toml"]).expect(0);
    assert!(said.stdout.ends_with(": asked to stop, with its stages\n"), "{}", said.stdout);
    Said::from(run.wait_with_output().unwrap()).expect(130);
    let said = space.erw(&["stop", "p.toml", "slow"]).expect(2);
    assert!(said.stderr.contains("is not queued and does not run"), "{}", said.stderr);
}
