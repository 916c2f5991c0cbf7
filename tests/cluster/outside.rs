//! What people do around a run: list what is at work, stop it from elsewhere, submit the run itself.

use super::*;
use serde_json::Value;

fn erw(cluster: &Cluster, space: &Space, args: &[&str]) -> Said {
    Said::from(cluster.command(space, args).finish())
}

/// What `erw jobs` says.
fn at_work(cluster: &Cluster, space: &Space) -> Vec<Value> {
    let said = erw(cluster, space, &["jobs", "p.toml", "--json"]).expect(0);
    serde_json::from_str(&said.stdout).unwrap()
}

/// A run that is killed while its job runs.
fn orphan(cluster: &Cluster, space: &Space) {
    let run = cluster.spawn(space, &[]);
    until("a checkpoint", || has_checkpoint(space));
    signal(&run, Signal::SIGKILL);
    end(run);
}

#[test]
fn a_job_without_a_run_is_listed_and_stopped() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(200);
    orphan(&cluster, &space);
    let found = at_work(&cluster, &space);
    let [job] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!([&job["stage"], &job["state"], &job["launcher"]], ["count", "running", "slurm"]);
    assert_eq!((job["job"].as_str().unwrap(), &job["run"]), (cluster.jobs()[0].0.as_str(), &Value::Null));
    assert!(["n1", "n2"].contains(&job["host"].as_str().unwrap()), "{job}");
    let table = erw(&cluster, &space, &["jobs"]).expect(0).stdout;
    assert!(table.contains("gone; `erw run` attends it"), "{table}");
    let said = erw(&cluster, &space, &["stop", "p.toml"]).expect(0);
    assert!(said.stdout.contains("was asked to save a checkpoint and stop"), "{}", said.stdout);
    // It is not requeued.
    until("the queue to be empty", || cluster.jobs().is_empty());
    assert_eq!((lines(&space, "start"), lines(&space, "end")), (1, 0));
    assert_eq!(at_work(&cluster, &space), Vec::<Value>::new());
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 2, "resumed");
    is_done_once(&cluster, &space, 200);
    assert_eq!(erw(&cluster, &space, &["jobs"]).expect(0).stdout, "nothing is queued or runs\n");
}

#[test]
fn a_waiting_job_without_a_run_is_cancelled() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(2);
    let other = cluster.occupy(100);
    until("the nodes to be taken", || cluster.jobs() == [(other.clone(), "RUNNING".to_string())]);
    let run = cluster.spawn(&space, &[]);
    until("the job", || cluster.jobs().len() == 2);
    signal(&run, Signal::SIGKILL);
    end(run);
    assert_eq!(at_work(&cluster, &space)[0]["state"], "pending");
    let said = erw(&cluster, &space, &["stop", "p.toml:count"]).expect(0);
    assert!(said.stdout.starts_with("count: its job ") && said.stdout.contains("was cancelled"), "{}", said.stdout);
    until("the job to be gone", || cluster.jobs().len() == 1);
    cluster.tell(&["scancel", &other]);
    // The cancellation is not taken for that of a person, which would suspend it.
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 1);
    is_done_once(&cluster, &space, 2);
}

/// Its script has requeued it, as after a preemption.
#[test]
fn a_requeued_job_without_a_run_is_cancelled() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(100);
    orphan(&cluster, &space);
    cluster.tell(&["scancel", "--signal=TERM", &cluster.jobs()[0].0]);
    until("it to wait", || cluster.jobs().iter().any(|(_, state)| state == "PENDING"));
    let said = erw(&cluster, &space, &["stop", "p.toml"]).expect(0);
    assert!(said.stdout.contains("waited, and was cancelled"), "{}", said.stdout);
    until("the queue to be empty", || cluster.jobs().is_empty());
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 2, "resumed");
    is_done_once(&cluster, &space, 100);
}

/// Requeued when its stage has come to its end, as by a preemption that began before.
#[test]
fn what_is_done_is_not_done_again_after_a_requeue() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(30);
    // The job outlives its stage.
    space.write("erw.toml", "[default]\nsetup = [\"trap 'sleep 20' EXIT\"]\n");
    orphan(&cluster, &space);
    until("its report", || {
        let work = walkdir::WalkDir::new(space.path("cache/v1/work")).into_iter().flatten();
        work.into_iter().any(|entry| entry.file_name() == "attempt-1.end.json")
    });
    cluster.tell(&["scontrol", "requeue", &cluster.jobs()[0].0]);
    until("the queue to be empty", || {
        cluster.hurry();
        cluster.jobs().is_empty()
    });
    cluster.run(&space, &[]).expect(0);
    assert_eq!(lines(&space, "start"), 1);
    is_done_once(&cluster, &space, 30);
}

/// The run sees a file, from whichever host that is written.
#[test]
fn a_run_that_lives_is_stopped_with_its_jobs() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(300);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    let found = at_work(&cluster, &space);
    assert!(found.len() == 1 && found[0]["run"].is_string(), "{found:?}");
    let said = erw(&cluster, &space, &["stop", "p.toml"]).expect(0);
    assert!(said.stdout.contains(": asked to stop, with its stages"), "{}", said.stdout);
    end(run).expect(130);
    until("the queue to be empty", || cluster.jobs().is_empty());
    assert_eq!((lines(&space, "start"), lines(&space, "end")), (1, 0));
    // A later run does not find the request any more.
    let run = cluster.spawn(&space, &[]);
    until("a second start", || lines(&space, "start") == 2);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.jobs().len(), 1);
    // One stage alone: the run has nothing else to do, and says what a suspended one says.
    erw(&cluster, &space, &["stop", "p.toml", "count"]).expect(0);
    end(run).expect(3);
    cluster.run(&space, &[]).expect(0);
    is_done_once(&cluster, &space, 300);
}

#[test]
fn what_is_not_at_work_is_not_stopped() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(1);
    let said = erw(&cluster, &space, &["stop", "p.toml"]).expect(0);
    assert_eq!(said.stdout, "nothing is queued or runs\n");
    let said = erw(&cluster, &space, &["stop", "p.toml", "count"]).expect(2);
    assert!(said.stderr.contains("stage `count` is not queued and does not run"), "{}", said.stderr);
}

#[test]
fn a_run_as_a_job_submits_the_others() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(100);
    space.write("erw.toml", "[default.runner]\npartition = \"scavenge\"\n");
    let said = cluster.run(&space, &["--detach"]).expect(0);
    assert!(said.stdout.contains(" runs it; its log is "), "{}", said.stdout);
    until("a checkpoint", || has_checkpoint(&space));
    let found = at_work(&cluster, &space);
    assert!(found.len() == 2 && found[0]["stage"].is_null() && found[1]["run"].is_string(), "{found:?}");
    let partition = cluster.tell(&["squeue", "-h", "-o", "%P", "-j", found[0]["job"].as_str().unwrap()]);
    assert_eq!(partition.trim(), "scavenge");
    let said = cluster.run(&space, &["--detach"]).expect(2);
    assert!(said.stderr.contains("this run is a job already"), "{}", said.stderr);
    // As a preemption does it: the job of the stage goes on, and the run finds it again.
    cluster.tell(&["scontrol", "requeue", found[0]["job"].as_str().unwrap()]);
    until("the run to wait", || cluster.jobs().iter().any(|(_, state)| state == "PENDING"));
    until("the run to start again", || {
        cluster.hurry();
        cluster.jobs().iter().all(|(_, state)| state == "RUNNING")
    });
    until("the end", || cluster.jobs().is_empty());
    assert_eq!(lines(&space, "start"), 1, "the same job");
    is_done_once(&cluster, &space, 100);
}

#[test]
fn a_run_as_a_job_is_stopped() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(200);
    cluster.run(&space, &["--detach"]).expect(0);
    until("a checkpoint", || has_checkpoint(&space));
    // Whoever cancels the run leaves its stages.
    let run = at_work(&cluster, &space)[0]["job"].as_str().unwrap().to_string();
    cluster.tell(&["scancel", &run]);
    until("the run to be gone", || cluster.jobs().len() == 1);
    assert_eq!(lines(&space, "start"), 1);
    cluster.run(&space, &["--detach"]).expect(0);
    erw(&cluster, &space, &["stop", "p.toml"]).expect(0);
    until("the queue to be empty", || cluster.jobs().is_empty());
    assert_eq!((lines(&space, "start"), lines(&space, "end")), (1, 0));
    cluster.run(&space, &[]).expect(0);
    is_done_once(&cluster, &space, 200);
}

/// A run under other settings neither works beside a job nor repeats it.
#[test]
fn a_run_on_this_machine_takes_over_what_a_job_has_done() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(40);
    orphan(&cluster, &space);
    let here = || cluster.run(&space, &["--launcher", "local"]);
    let said = here().expect(1).stderr;
    assert!(said.contains("stage `count` is a job of Slurm already: ") && said.contains(" is running"), "{said}");
    until("the job's end", || cluster.jobs().is_empty());
    here().expect(0);
    assert_eq!((lines(&space, "start"), lines(&space, "end")), (1, 1));
    is_done_once(&cluster, &space, 40);
    // One that was cancelled is gone on with.
    let space = count(60);
    orphan(&cluster, &space);
    cluster.tell(&["scancel", &cluster.jobs()[0].0]);
    until("the queue to be empty", || cluster.jobs().is_empty());
    cluster.run(&space, &["--launcher", "local"]).expect(0);
    is_done_once(&cluster, &space, 60);
}

#[test]
fn a_run_on_this_machine_is_no_job() {
    let space = count(1);
    let said = space.run(&["--detach"]).expect(2);
    assert_eq!(
        said.stderr,
        "error: `--detach` submits a job, and the launcher is `local`\nhint: pass `--launcher slurm`, or choose a profile that says \
         so\nhint: on one machine, a run goes on in the background with `nohup erw run … &`, tmux or screen\n"
    );
    assert_eq!(space.read("ran"), "");
}

/// What a plan says of jobs is what `sbatch` is told, and is refused as in a run.
#[test]
fn a_plan_says_what_jobs_would_request() {
    let Some(cluster) = Cluster::start() else { return };
    let space =
        Space::new(&COUNT.replace("STEPS", "1").replace("threads = 1", "threads = 2, mem = \"1GiB\", gpus = 1"));
    space.write(
        "erw.toml",
        "[gpu]\nlauncher = \"slurm\"\npartition = \"main\"\ntime = \"1:00:00\"\n[here]\nlocal_kinds = [\"command\"]\n\
         [bad]\npartition = \"nowhere\"\n",
    );
    let plan = |profile: &str| {
        let mut command = cluster.command(&space, &["plan", "p.toml", "--profile", profile]);
        if profile == "gpu" {
            command.env_remove("ERW_LAUNCHER");
        }
        Said::from(command.finish())
    };
    let no_gpus = cluster.tell(&["sinfo", "-h", "-o", "%G"]).contains("null");
    let said = plan("gpu").expect(if no_gpus { 2 } else { 0 });
    let wanted =
        "job of Slurm: --ntasks=1 --cpus-per-task=2 --mem=1024M --gpus-per-task=1 --partition=main --time=1:00:00";
    assert!(said.stdout.contains(wanted), "{}", said.stdout);
    assert!(plan("here").expect(0).stdout.contains("no job: runs beside `erw run`"));
    let said = plan("bad").expect(2);
    assert!(
        said.stdout.contains("--partition=nowhere") && said.stderr.contains("invalid partition"),
        "{}",
        said.stderr
    );
    assert!(!space.plan(&[]).contains("job"), "nothing of jobs where there are none");
}

#[test]
fn local_kinds_run_beside_the_run() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(2);
    let mut command = cluster.command(&space, &["run", "p.toml", "--plain"]);
    // Whatever would be submitted would fail.
    Said::from(command.env("ERW_LOCAL_KINDS", "command").env("ERW_SETUP", "exit 1").finish()).expect(0);
    is_done_once(&cluster, &space, 2);
    let mut command = cluster.command(&space, &["run", "p.toml"]);
    let said = Said::from(command.env("ERW_LOCAL_KINDS", "comand").finish()).expect(2);
    assert!(said.stderr.contains("ERW_LOCAL_KINDS: unknown stage kind `comand`"), "{}", said.stderr);
}

#[test]
fn a_site_is_checked_by_a_job() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(1);
    let said = erw(&cluster, &space, &["site", "check"]).expect(0);
    for word in ["held, but seen from", "seen by both within", "agree within", "`srun` started 2 of 2", "allowed"] {
        assert!(said.stdout.contains(word), "{word}: {}", said.stdout);
    }
    assert!(said.stdout.contains("none, and none is needed: Slurm accounting storage is disabled"), "{}", said.stdout);
    // As on a file system whose locks are those of one host: the node locks another file.
    let another = "for f in cache/v1/site/*/lock; do mv $f $f.old; : > $f; done";
    let mut command = cluster.command(&space, &["site", "check"]);
    let said = Said::from(command.env("ERW_SETUP", format!("cd {}; {another}", space.path("").display())).finish());
    let said = said.expect(1);
    assert!(said.stdout.contains("does NOT hold"), "{}", said.stdout);
    assert!(said.stderr.contains("two runs could compute one stage"), "{}", said.stderr);
    // The program does not start there.
    let mut command = cluster.command(&space, &["site", "check"]);
    let said = Said::from(command.env("ERW_SETUP", "echo no such library >&2; exit 127").finish()).expect(1);
    assert!(said.stderr.contains("the job ended") && said.stderr.contains("no such library"), "{}", said.stderr);
    let said = erw(&cluster, &space, &["site", "check", "--gpus", "99"]).expect(2);
    assert!(said.stderr.contains("`sbatch` did not take the job"), "{}", said.stderr);
}

/// Asked by name, user and time. It adds words and decides nothing.
#[test]
fn accounting_adds_words_to_an_error() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(1);
    let answer = "17|FAILED|7:0|00:00:03|n1";
    let path = tool(&space, "sacct", &format!("echo \"$@\" >> {}\necho '{answer}'", space.path("asked").display()));
    let mut command = cluster.command(&space, &["run", "p.toml", "--plain"]);
    let said = Said::from(command.env("ERW_SETUP", "exit 7").env("PATH", path).finish()).expect(1);
    let words = "accounting says of job 17: failed after 00:00:03 on n1, exit status and signal 7:0";
    assert!(said.stderr.contains("its job failed without a report") && said.stderr.contains(words), "{}", said.stderr);
    let asked = space.read("asked");
    assert!(
        asked.contains("--name=erw-") && asked.contains("--user=") && asked.contains("--starttime=now-"),
        "{asked}"
    );
}
