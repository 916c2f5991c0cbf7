//! Runs that are killed or stopped, two runs at once, and a scheduler that is away.

use super::*;
use std::os::unix::fs::PermissionsExt;

/// A search path with another `sbatch` before the real one, that does this where a job is submitted.
fn sbatch(space: &Space, submission: &str) -> String {
    let script = format!(
        "#!/bin/sh\nPATH=${{PATH#*:}}\ncase \"$*\" in *--test-only*) exec sbatch \"$@\" ;; esac\n{submission}\n"
    );
    space.write("bin/sbatch", &script);
    std::fs::set_permissions(space.path("bin/sbatch"), std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", space.path("bin").display(), std::env::var("PATH").unwrap())
}

/// Killed while the job runs: it goes on, and the next run attends it.
#[test]
fn a_killed_run_is_continued_by_the_next() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(60);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    signal(&run, Signal::SIGKILL);
    end(run);
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 1, "the same job");
    is_done_once(&cluster, &space, 60);
}

/// Its job has ended while no run lived.
#[test]
fn what_ended_meanwhile_counts() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(20);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    signal(&run, Signal::SIGKILL);
    end(run);
    until("the job's end", || cluster.jobs().is_empty());
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 1);
    is_done_once(&cluster, &space, 20);
}

/// Killed after the submission, before the number of the job was noted.
#[test]
fn a_job_whose_number_was_not_noted_is_found() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(20);
    let path = sbatch(&space, "sbatch \"$@\" > /dev/null; kill -9 $PPID");
    let said = cluster.command(&space, &["run", "p.toml", "--plain"]).env("PATH", path).finish();
    Said::from(said).expect(-9);
    assert_eq!(cluster.jobs().len(), 1);
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 1);
    is_done_once(&cluster, &space, 20);
}

/// Killed before the submission: nothing was started.
#[test]
fn a_job_that_was_not_submitted_is_placed_again() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(5);
    let path = sbatch(&space, "kill -9 $PPID");
    let said = cluster.command(&space, &["run", "p.toml", "--plain"]).env("PATH", path).finish();
    Said::from(said).expect(-9);
    cluster.run(&space, &[]).expect(0);
    is_done_once(&cluster, &space, 5);
}

#[test]
fn a_stopped_run_suspends_its_job() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(100);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    signal(&run, Signal::SIGINT);
    end(run).expect(130);
    until("the queue to be empty", || cluster.jobs().is_empty());
    assert_eq!((lines(&space, "start"), lines(&space, "end")), (1, 0));
    cluster.run(&space, &[]).expect(0);
    is_done_once(&cluster, &space, 100);
}

/// It never starts, neither then nor later.
#[test]
fn a_stopped_run_cancels_a_job_that_waits() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(2);
    let all = ["sbatch", "--parsable", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 100"];
    let other = cluster.tell(&all);
    until("the nodes to be taken", || cluster.jobs() == [(other.trim().to_string(), "RUNNING".to_string())]);
    let run = cluster.spawn(&space, &[]);
    until("the job", || cluster.jobs().len() == 2);
    signal(&run, Signal::SIGINT);
    end(run).expect(130);
    until("the job to be gone", || cluster.jobs().len() == 1);
    cluster.tell(&["scancel", other.trim()]);
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 1);
    is_done_once(&cluster, &space, 2);
}

/// Whoever closes the terminal wants the job to go on.
#[test]
fn a_closed_terminal_leaves_the_job() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(40);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    signal(&run, Signal::SIGHUP);
    end(run).expect(129);
    assert_eq!(cluster.jobs().len(), 1);
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 1, "the same job");
    is_done_once(&cluster, &space, 40);
}

#[test]
fn two_runs_have_one_job() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(20);
    let runs = [cluster.spawn(&space, &[]), cluster.spawn(&space, &[])];
    runs.into_iter().for_each(|run| drop(end(run).expect(0)));
    assert_eq!(lines(&space, "start"), 1);
    is_done_once(&cluster, &space, 20);
}

#[test]
fn a_scheduler_that_is_away_is_waited_for() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(30);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    let daemon = Pid::from_raw(cluster.daemon("ctld").parse().unwrap());
    kill(daemon, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(8));
    kill(daemon, Signal::SIGCONT).unwrap();
    end(run).expect(0);
    assert_eq!(lines(&space, "start"), 1);
    is_done_once(&cluster, &space, 30);
}
