//! A run that is stopped or killed at any moment and run again ends as if nothing had happened.

use crate::support::counter;
use crate::support::space::Space;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Child;

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

fn alive(pid: &str) -> bool {
    // A zombie waiting for its parent does nothing any more.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Notes its process ids, then waits for the file `go`. Told to stop, it leaves a checkpoint.
const WAITING: &str = r#"
[stages.s]
kind = "command"
run = """
trap 'echo saved > {checkpoints}/state; exit 0' TERM
sleep 60 & echo $! > child; echo $$ > program; echo s >> ran
while ! [ -e go ]; do sleep 0.02; done; kill $!
cat {checkpoints}/state > {outputs.o} 2>/dev/null; echo end >> {outputs.o}
"""
outputs = { o = "text" }
[stages.t]
kind = "command"
run = "cp {inputs.x} {outputs.o}"
inputs = { x = "s" }
outputs = { o = "text" }
"#;

fn waiting() -> (Space, Child) {
    let space = Space::new(WAITING);
    let child = space.start(&[]);
    space.until("the program", || space.read("ran") == "s\n");
    (space, child)
}

#[test]
fn a_signal_suspends_a_run_and_the_next_run_resumes_it() {
    for (name, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let (space, child) = waiting();
        signal(&child, name);
        let out = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains("s: suspended; in the next run it resumes from its checkpoints"), "{stderr}");
        assert!(stderr.contains("t: skipped"), "{stderr}");
        space.write("go", "");
        space.run(&[]).expect(0);
        assert_eq!(space.outputs()["t"], "saved\nend\n", "the checkpoint was found");
        // The journal was closed.
        let runs: Vec<_> = std::fs::read_dir(space.path("cache/runs")).unwrap().collect();
        assert!(runs.into_iter().all(|r| r.unwrap().path().join("summary.json").exists()));
    }
}

#[test]
fn a_second_signal_kills_a_program_that_ignores_the_first() {
    let space = Space::new(&WAITING.replace("trap 'echo saved > {checkpoints}/state; exit 0' TERM", "trap '' TERM"));
    let child = space.start(&[]);
    space.until("the program", || space.read("ran") == "s\n");
    signal(&child, Signal::SIGINT);
    // What comes within a second is the same wish.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert!(!alive(&space.read("program")));
}

#[test]
fn programs_end_with_a_killed_runner() {
    let (space, mut child) = waiting();
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    space.until("the orphans to end", || !alive(&space.read("child")) && !alive(&space.read("program")));
    space.write("go", "");
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["t"], "end\n");
    assert_eq!(space.ran(), ["s", "s"]);
}

#[test]
fn a_killed_program_is_a_failure_and_leaves_nothing_running() {
    let (space, child) = waiting();
    kill(Pid::from_raw(space.read("program").trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr.contains("error: stage `s`: `sh` was killed by SIGKILL"), "{stderr}");
    space.until("its child to end", || !alive(&space.read("child")));
    space.write("go", "");
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["t"], "end\n");
}

#[test]
fn a_runner_killed_at_many_moments_ends_with_the_same_artifacts() {
    let stages: String = (0..6)
        .map(|i| {
            let input = if i > 0 { format!("inputs = {{ x = \"s{}\" }}\n", i - 1) } else { String::new() };
            let cat = if i > 0 { "cat {inputs.x};" } else { "" };
            format!(
                "[stages.s{i}]\nkind = \"command\"\nrun = \"sleep 0.01; mkdir {{outputs.o}}; ({cat} echo {i}) > {{outputs.o}}/f\"\n{input}outputs = {{ o = \"t\" }}\n"
            )
        })
        .collect::<String>()
        .replace("cat {inputs.x};", "cat {inputs.x}/f;");
    let digests = |space: &Space| -> Vec<String> {
        let names = space.bucket("store");
        names.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    let calm = Space::new(&stages);
    calm.run(&[]).expect(0);
    let space = Space::new(&stages);
    for moment in 0..25 {
        let mut child = space.start(&[]);
        std::thread::sleep(std::time::Duration::from_millis(7 * moment));
        let _ = child.kill();
        child.wait().unwrap();
    }
    space.run(&[]).expect(0);
    assert_eq!(digests(&space), digests(&calm));
    space.erw(&["cache", "verify"]).expect(0);
    assert!(space.run(&[]).expect(0).stdout.contains("all 6 stages are cached"));
}

#[test]
fn a_stage_killed_at_any_step_ends_bit_identical() {
    let (calm, record) = counter::count(0);
    assert_eq!(record.ends[0].resumed, None);
    for step in [1, 4, 9] {
        let (space, outcome) = counter::count(step);
        let error = outcome.error.unwrap();
        assert!(error.message.contains("the worker was killed by SIGKILL"), "{error}");
        let outcome = counter::count_in(&space, 0);
        assert_eq!(outcome.ends[0].resumed, Some(step as u64));
        assert_eq!(outcome.ends[0].outputs[0].digest, record.ends[0].outputs[0].digest);
        assert_eq!(outcome.ends[0].results, record.ends[0].results);
    }
    // Where the next attempt would go on, by every attempt that came to a checkpoint.
    let (space, outcome) = counter::count(-1);
    assert_eq!(outcome.ends[0].left.as_ref().unwrap().to_string(), "resumes at 1");
    let outcome = counter::count_in(&space, -1);
    assert_eq!(outcome.ends[0].left.as_ref().unwrap().to_string(), "resumes at 2");
    assert_eq!(outcome.error.unwrap().message, "stage `n`: suspended; a rerun resumes at 2");
    counter::count_in(&space, 5);
    assert_eq!(counter::left(&space), "resumes at 5 of 10");
    // A cached stage tells the results it had.
    assert_eq!(counter::count_in(&calm, 0).ends[0].results, record.ends[0].results);
}

#[test]
fn a_stage_that_suspends_itself_suspends_the_run() {
    let (space, outcome) = counter::count(-1);
    assert_eq!(outcome.error.unwrap().exit_code(), 3);
    assert_eq!(outcome.ends[0].state, erw::runner::event::StageState::Suspended);
    assert!(counter::count_in(&space, 0).error.is_none());
}

#[test]
fn a_panic_is_a_failure_with_its_message() {
    let (_, outcome) = counter::count(-2);
    let failure = outcome.ends[0].error.clone().unwrap();
    assert_eq!(failure.message, "the stage panicked: toy panic");
    assert!(!failure.tail.is_empty(), "the log says where");
}

/// Bytes depend on the step at which another machine took over: a record says that there were
/// several, and nobody is held to them.
#[test]
fn a_result_of_several_machine_classes_is_not_verified() {
    let script = "set -e; if [ -e {checkpoints}/half ]; then cat {checkpoints}/half > {outputs.o}; date +%N >> {outputs.o}; \
                  else echo half > {checkpoints}/half; exit 1; fi";
    let pipeline = format!("[stages.t]\nkind = \"command\"\nrun = \"{script}\"\noutputs = {{ o = \"text\" }}\n");
    let space = Space::new(&pipeline);
    space.run(&[]).expect(1);
    let work = std::fs::read_dir(space.path("cache/v1/work")).unwrap().next().unwrap().unwrap().path();
    let noted = std::fs::read_to_string(work.join("machines.txt")).unwrap();
    assert_eq!(noted, format!("{}\n", erw::runner::host::class()));
    // As if the first attempt had been made elsewhere.
    std::fs::write(work.join("machines.txt"), "a class of its own\n").unwrap();
    space.run(&["--lock"]).expect(0);
    let shown = space.erw(&["show", "p.toml:t"]).expect(0).stdout;
    assert!(
        shown.contains("started on another machine, so equal bytes are not promised: a class of its own\n"),
        "{shown}"
    );
    assert!(space.read("p.lock").contains("class = \"several machines\""), "{}", space.read("p.lock"));
    // Made again, on one machine: other bytes, and no fault.
    space.run(&["--force", "t"]).expect(1);
    let said = space.run(&["--locked", "--force", "t"]).expect(0).stdout;
    assert!(said.contains("t  bytes differ (different classes of machine)"), "{said}");
    let shown = space.erw(&["show", "p.toml:t"]).expect(0).stdout;
    assert!(!shown.contains("elsewhere"), "{shown}");
    // Whole on one machine, they are owed.
    space.run(&["--lock"]).expect(0);
    space.run(&["--force", "t"]).expect(1);
    let said = space.run(&["--locked", "--force", "t"]).expect(1).stderr;
    assert!(said.contains("the outputs of stage `t` differ from"), "{said}");
}
