//! Stages as jobs of a real Slurm: whatever happens to the run, the job, its node or the scheduler,
//! the next run ends with the artifacts of an undisturbed one, and nothing runs twice to its end.

mod arrays;
mod ends;
mod kills;
mod outside;
mod ranks;

use crate::support::cluster::Cluster;
use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;
use std::time::{Duration, Instant};

/// A stage that counts to `STEPS`, ten a second, with a checkpoint at each, and notes each start and
/// end in `ran`. What it makes does not depend on where it was interrupted.
const COUNT: &str = r#"
[stages.count]
kind = "command"
run = """
set -e
echo start >> ran
n=$(cat {checkpoints}/n 2>/dev/null || echo 0)
trap 'exit 0' TERM
while [ $n -lt STEPS ]; do
    sleep 0.1; n=$((n + 1)); echo $n > {checkpoints}/n.new; mv {checkpoints}/n.new {checkpoints}/n
done
echo $n > {outputs.o}
echo end >> ran
"""
outputs = { o = "text" }
resources = { threads = 1 }
"#;

fn count(steps: u32) -> Space {
    Space::new(&COUNT.replace("STEPS", &steps.to_string()))
}

/// A search path with a tool of this name, a script for `sh`, before all others.
fn tool(space: &Space, name: &str, script: &str) -> String {
    let file = format!("bin/{name}");
    space.write(&file, &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(space.path(&file), std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", space.path("bin").display(), std::env::var("PATH").unwrap())
}

/// Waits until it holds, at most a minute.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn lines(space: &Space, line: &str) -> usize {
    space.read("ran").lines().filter(|l| *l == line).count()
}

fn has_checkpoint(space: &Space) -> bool {
    let work = std::fs::read_dir(space.path("cache/v1/work")).into_iter().flatten().flatten();
    work.into_iter().any(|key| key.path().join("checkpoints/n").exists())
}

fn signal(run: &Child, signal: Signal) {
    kill(Pid::from_raw(run.id() as i32), signal).unwrap();
}

fn end(run: Child) -> Said {
    Said::from(run.wait_with_output().unwrap())
}

/// The stage ended once, with the bytes of an undisturbed run, and no job is left.
#[track_caller]
fn is_done_once(cluster: &Cluster, space: &Space, steps: u32) {
    assert_eq!(space.outputs()["count"], format!("{steps}\n"));
    assert_eq!(lines(space, "end"), 1, "{}", space.read("ran"));
    until("the queue to be empty", || cluster.jobs().is_empty());
}
