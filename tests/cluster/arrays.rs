//! Stages of one shape as tasks of one array: what holds for single jobs holds for them.

use super::*;
use serde_json::Value;
use std::process::{Command, Stdio};

/// Three trials, each a stage that counts.
fn sweep(steps: u32) -> Space {
    let trial = "params = { seed = 0 }\n";
    let one = COUNT.replace("STEPS", &steps.to_string()).replace("ran", "ran-{params.seed}");
    let one = one.replace("echo $n > {outputs.o}", "[ -e fail-{params.seed} ] && exit 7; echo $n > {outputs.o}");
    Space::new(&format!("{one}{trial}\n[sweep]\n\"count.seed\" = [1, 2, 3]\n"))
}

/// A sweep, whose submissions are counted.
fn command(cluster: &Cluster, space: &Space) -> Command {
    let path = tool(
        space,
        "sbatch",
        &format!(
            "PATH=${{PATH#*:}}\ncase \"$*\" in *--test-only*) ;; *) echo x >> {} ;; esac\nexec sbatch \"$@\"",
            space.path("submissions").display()
        ),
    );
    let mut command = cluster.command(space, &["sweep", "p.toml", "--plain"]);
    command.env("PATH", path).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn submissions(space: &Space) -> usize {
    space.read("submissions").lines().count()
}

/// How often a trial noted this.
fn noted(space: &Space, trial: u32, line: &str) -> usize {
    space.read(&format!("ran-{trial}")).lines().filter(|l| *l == line).count()
}

fn all_run(space: &Space) -> bool {
    (1..=3).all(|trial| noted(space, trial, "start") > 0)
}

/// What `erw jobs` says of a trial.
fn job(cluster: &Cluster, space: &Space, trial: u32) -> Value {
    let said = Said::from(cluster.command(space, &["jobs", "p.toml", "--json"]).finish()).expect(0);
    let found: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    let is_it = |job: &Value| job["stage"].as_str().unwrap().ends_with(&format!("={trial}"));
    found.into_iter().find(is_it).unwrap()
}

#[track_caller]
fn all_done_once(cluster: &Cluster, space: &Space) {
    (1..=3).for_each(|trial| assert_eq!(noted(space, trial, "end"), 1, "trial {trial}"));
    until("the queue to be empty", || cluster.jobs().is_empty());
}

#[test]
fn trials_are_one_submission() {
    let Some(cluster) = Cluster::start() else { return };
    let space = sweep(5);
    Said::from(command(&cluster, &space).finish()).expect(0);
    assert_eq!(submissions(&space), 1);
    all_done_once(&cluster, &space);
}

#[test]
fn a_task_that_fails_or_is_cancelled_is_alone() {
    let Some(cluster) = Cluster::start() else { return };
    let space = sweep(60);
    space.write("fail-2", "");
    let run = command(&cluster, &space).env("ERW_RETRIES", "1").start();
    until("all to run", || all_run(&space));
    let tasks = cluster.tell(&["squeue", "-h", "-r", "-o", "%i"]);
    assert_eq!(tasks.lines().filter(|id| id.contains('_')).count(), 3, "{tasks}");
    // A person cancels one, which suspends it.
    cluster.tell(&["scancel", job(&cluster, &space, 3)["job"].as_str().unwrap()]);
    let said = end(run).expect(1);
    assert!(said.stderr.contains("status 7"), "{}", said.stderr);
    assert_eq!([noted(&space, 2, "start"), noted(&space, 2, "end")], [2, 0], "tried again, alone");
    assert_eq!(submissions(&space), 2);
    std::fs::remove_file(space.path("fail-2")).unwrap();
    Said::from(command(&cluster, &space).finish()).expect(0);
    all_done_once(&cluster, &space);
}

#[test]
fn tasks_are_found_again_and_stopped_one_by_one() {
    let Some(cluster) = Cluster::start() else { return };
    let space = sweep(200);
    let run = command(&cluster, &space).start();
    until("all to run", || all_run(&space));
    signal(&run, Signal::SIGKILL);
    end(run);
    let first = job(&cluster, &space, 1);
    assert!(first["job"].as_str().unwrap().contains('_') && first["state"] == "running", "{first}");
    // While no run attends them.
    let stage = first["stage"].as_str().unwrap();
    let said = Said::from(cluster.command(&space, &["stop", "p.toml", stage]).finish()).expect(0);
    assert!(said.stdout.contains("was asked to save a checkpoint"), "{}", said.stdout);
    until("one to stop", || cluster.tell(&["squeue", "-h", "-r", "-o", "%i"]).lines().count() == 2);
    Said::from(command(&cluster, &space).finish()).expect(0);
    assert_eq!((1..=3).map(|trial| noted(&space, trial, "start")).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(submissions(&space), 2);
    all_done_once(&cluster, &space);
}

/// The number of one task is also that of the array: only the task is requeued.
#[test]
fn one_task_is_preempted_and_requeued() {
    let Some(cluster) = Cluster::start() else { return };
    let space = sweep(150);
    let run = command(&cluster, &space).start();
    until("all to run", || all_run(&space));
    // As the begin of a preemption does it, for each of them in turn.
    let text = cluster.tell(&["squeue", "-h", "-r", "-o", "%A %i"]);
    let whole = text.lines().find(|line| line.split_once(' ').is_some_and(|(a, i)| i.starts_with(&format!("{a}_"))));
    let id = whole.unwrap().split_once(' ').unwrap().1.to_string();
    cluster.tell(&["scancel", "--signal=TERM", &id]);
    until("one to wait", || cluster.jobs().iter().any(|(_, state)| state == "PENDING"));
    until("it to start again", || {
        cluster.hurry();
        (1..=3).map(|trial| noted(&space, trial, "start")).sum::<usize>() == 4
    });
    end(run).expect(0);
    assert_eq!((1..=3).map(|trial| noted(&space, trial, "start")).sum::<usize>(), 4, "the others were left alone");
    assert_eq!(submissions(&space), 1);
    all_done_once(&cluster, &space);
}
