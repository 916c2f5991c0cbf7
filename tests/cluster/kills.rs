//! Runs that are killed or stopped, two runs at once, and a scheduler that is away.

use super::*;
use crate::support::dice::Dice;
use crate::support::skip;
use std::process::Command;

/// A search path with another `sbatch` before the real one, that does this where a job is submitted.
fn sbatch(space: &Space, submission: &str) -> String {
    let test_only = "case \"$*\" in *--test-only*) exec sbatch \"$@\" ;; esac";
    tool(space, "sbatch", &format!("PATH=${{PATH#*:}}\n{test_only}\n{submission}"))
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

/// Killed at its first write after the job's end, which is that of the record: what the job made is
/// taken over.
#[test]
fn a_run_killed_before_it_wrote_the_record_repeats_nothing() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(20);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    signal(&run, Signal::SIGSTOP);
    until("the job's end", || cluster.jobs().is_empty());
    let limit = Command::new("prlimit").args(["--fsize=0", "--pid", &run.id().to_string()]).status();
    signal(&run, Signal::SIGCONT);
    if !limit.is_ok_and(|status| status.success()) {
        signal(&run, Signal::SIGKILL);
        end(run);
        return skip("prlimit is missing");
    }
    end(run).expect(-(Signal::SIGXFSZ as i32));
    assert_eq!(lines(&space, "end"), 1);
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 1, "the job was not repeated");
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
    let other = cluster.occupy(100);
    until("the nodes to be taken", || cluster.jobs() == [(other.clone(), "RUNNING".to_string())]);
    let run = cluster.spawn(&space, &[]);
    until("the job", || cluster.jobs().len() == 2);
    signal(&run, Signal::SIGINT);
    end(run).expect(130);
    until("the job to be gone", || cluster.jobs().len() == 1);
    cluster.tell(&["scancel", &other]);
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

/// It has forgotten the start, and starts the job a second time, which the node refuses: the job
/// would be held for ever.
#[test]
fn a_controller_that_forgot_a_start_causes_no_second_worker() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(100);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    kill(Pid::from_raw(cluster.daemon("ctld").parse().unwrap()), Signal::SIGKILL).unwrap();
    cluster.restart_controller();
    end(run).expect(0);
    // Two workers would count to a hundred twice at the same time, and both note an end.
    is_done_once(&cluster, &space, 100);
}

/// Whenever a run is killed, the next one goes on with its job.
#[test]
fn runs_are_killed_at_random_moments() {
    let Some(cluster) = Cluster::start() else { return };
    let (space, mut dice) = (count(100), Dice::new());
    for _ in 0..5 {
        let run = cluster.spawn(&space, &[]);
        dice.wait(Duration::from_secs(3));
        signal(&run, Signal::SIGKILL);
        end(run);
    }
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 1, "one job");
    is_done_once(&cluster, &space, 100);
    let placed = std::fs::read_dir(space.path("cache/v1/work")).unwrap().count();
    assert_eq!((space.bucket("actions").len(), placed), (1, 0), "one record, and nothing left");
}
