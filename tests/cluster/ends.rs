//! How jobs end: by themselves, refused, cancelled, preempted, without a word, on a dead node.

use super::*;

/// A pipeline of commands and kinds, whose stages read each other's outputs.
const MIXED: &str = r#"
[stages.images]
kind = "images"
params = { source = "pictures", resolution = 4 }
resources = { threads = 1 }

[stages.text]
kind = "command"
run = "ls {inputs.images} > {outputs.o}; echo '{\"n\": 4}' > {outputs.m}"
inputs = { images = "images.images" }
outputs = { o = "text", m = "metrics" }
resources = { threads = 2 }
"#;

#[test]
fn jobs_make_what_processes_make() {
    let Some(cluster) = Cluster::start() else { return };
    let (there, here) = (Space::new(MIXED), Space::new(MIXED));
    for (space, i) in [&there, &here].into_iter().flat_map(|space| (0..4).map(move |i| (space, i))) {
        let pixels: Vec<String> = (i..i + 16).map(|light| light.to_string()).collect();
        space.write(&format!("pictures/{i}.pgm"), &format!("P2 4 4 255 {}\n", pixels.join(" ")));
    }
    let said = cluster.run(&there, &["--lock"]).expect(0);
    assert!(said.stdout.contains("n 4"), "{}", said.stdout);
    here.run(&["--lock"]).expect(0);
    assert_eq!(there.read("p.lock"), here.read("p.lock"));
    // The local launcher finds what the cluster made, and the other way round.
    assert_eq!(there.run(&[]).expect(0).stdout.matches(" cached ").count(), 2);
    assert_eq!(cluster.run(&here, &[]).expect(0).stdout.matches(" cached ").count(), 2);
}

/// Before anything is submitted.
#[test]
fn what_slurm_would_refuse_is_told_in_its_words() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(1);
    let run = |more: &[&str]| cluster.run(&space, more);
    let said = run(&["--partition", "nowhere"]).expect(2);
    assert!(said.stderr.starts_with("error: stage `count`: Slurm would refuse its job\n"), "{}", said.stderr);
    assert!(said.stderr.contains("invalid partition specified: nowhere"), "{}", said.stderr);
    space.write("erw.toml", "[default]\nconstraint = \"no-such-feature\"\n");
    let said = run(&[]).expect(2);
    assert!(said.stderr.contains("Invalid feature specification"), "{}", said.stderr);
    space.write("erw.toml", "[default.kinds.command]\npartition = \"scavenge\"\n[main]\nlauncher = \"slurm\"\n");
    run(&["--profile", "main"]).expect(0);
    is_done_once(&cluster, &space, 1);
}

#[test]
fn a_stage_without_its_gpus_asks_for_none() {
    let Some(cluster) = Cluster::start() else { return };
    let space = Space::new(&COUNT.replace("STEPS", "1").replace("threads = 1", "threads = 1, gpus = 9"));
    let said = cluster.run(&space, &[]).expect(2);
    assert!(said.stderr.starts_with("error: stage `count`: Slurm would refuse its job\n"), "{}", said.stderr);
    cluster.run(&space, &["--gpus", "0"]).expect(0);
    is_done_once(&cluster, &space, 1);
}

#[test]
fn without_slurm_it_says_so() {
    let space = count(1);
    let mut command = space.command(&["run", "p.toml", "--launcher", "slurm"]);
    let said = Said::from(command.env("PATH", "/nonexistent").finish()).expect(2);
    assert_eq!(
        said.stderr,
        "error: this machine submits no jobs: there is no `sbatch`\nhint: log in to a host that submits jobs, or use \
         `--launcher local`\n"
    );
}

/// What Slurm calls complete is not believed.
#[test]
fn a_job_that_never_ran_has_failed() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(1);
    let said = Said::from(cluster.command(&space, &["run", "p.toml", "--plain"]).env("ERW_SETUP", "exit 0").finish());
    let said = said.expect(1);
    assert!(said.stderr.contains("its job ended without a report: Slurm calls it completed"), "{}", said.stderr);
    assert_eq!(space.read("ran"), "");
    cluster.run(&space, &[]).expect(0);
    is_done_once(&cluster, &space, 1);
}

#[test]
fn a_program_that_fails_has_its_log() {
    let Some(cluster) = Cluster::start() else { return };
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"echo before; echo why >&2; exit 7\"\noutputs = { o = \"text\" }\n",
    );
    let said = cluster.run(&space, &[]).expect(1);
    assert!(said.stderr.contains("`sh` exited with status 7") && said.stderr.contains("  | why\n"), "{}", said.stderr);
    let logs = Said::from(cluster.command(&space, &["logs", "p.toml", "s"]).finish()).expect(0);
    assert!(logs.stdout.contains("before\nwhy\n"), "{}", logs.stdout);
}

#[test]
fn cancelled_by_a_person_is_suspended_and_resumed() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(60);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    cluster.tell(&["scancel", &cluster.jobs()[0].0]);
    end(run).expect(3);
    assert_eq!((lines(&space, "start"), lines(&space, "end")), (1, 0));
    cluster.run(&space, &[]).expect(0);
    is_done_once(&cluster, &space, 60);
}

/// Preempted with a requeue: the same job goes on.
#[test]
fn a_preempted_job_goes_on_from_its_checkpoint() {
    let Some(cluster) = Cluster::start() else { return };
    for partition in ["scavenge", "reaper"] {
        preempt(&cluster, partition, 80, "exit 0");
    }
}

/// Its program does not stop within the grace time, and is killed before it has counted to the end.
#[test]
fn a_job_that_is_deaf_to_its_preemption_goes_on_from_its_checkpoint() {
    let Some(cluster) = Cluster::start() else { return };
    for partition in ["scavenge", "reaper"] {
        preempt(&cluster, partition, 300, "");
    }
}

/// Runs a program that counts to `steps` and does this at a SIGTERM, and preempts its job once.
fn preempt(cluster: &Cluster, partition: &str, steps: u32, at_stop: &str) {
    let pipeline = COUNT.replace("STEPS", &steps.to_string());
    let space = Space::new(&pipeline.replace("trap 'exit 0'", &format!("trap '{at_stop}'")));
    let mut command = cluster.command(&space, &["run", "p.toml", "--plain"]);
    let run = command.env("ERW_PARTITION", partition).stdout(std::process::Stdio::piped());
    let run = run.stderr(std::process::Stdio::piped()).start();
    until("a checkpoint", || has_checkpoint(&space));
    // Takes both nodes for a moment.
    let other = cluster.occupy(2);
    until("the other job", || !cluster.jobs().iter().any(|(id, _)| *id == other));
    // Slurm makes a requeued job wait two minutes.
    until("the job to be requeued", || {
        cluster.hurry();
        lines(&space, "start") > 1
    });
    end(run).expect(0);
    is_done_once(cluster, &space, steps);
}

/// As on a file system on the network, which shows a file of a node late.
#[test]
fn a_report_that_is_seen_late_is_waited_for() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(3);
    // In place of the command: hides the report for a while, from outside of the job.
    let setup = r#"srun() { command srun "$@"; status=$?; for job; do :; done; end="${job%.json}.end.json"; \
        mv "$end" "$end.late"; setsid sh -c "sleep 8; mv '$end.late' '$end'" </dev/null >/dev/null 2>&1 & \
        return $status; }"#;
    let setup: Vec<&str> = setup.lines().collect();
    space.write("erw.toml", &format!("[default]\nsetup = {setup:?}\n"));
    let mut command = cluster.command(&space, &["run", "p.toml", "--plain"]);
    let began = Instant::now();
    Said::from(command.env("ERW_LATENCY", "40s").finish()).expect(0);
    assert!(began.elapsed() > Duration::from_secs(8), "the report was hidden");
    assert_eq!(lines(&space, "start"), 1);
    is_done_once(&cluster, &space, 3);
}

#[test]
fn a_dead_node_is_no_failure() {
    let Some(cluster) = Cluster::start() else { return };
    let space = count(60);
    let run = cluster.spawn(&space, &[]);
    until("a checkpoint", || has_checkpoint(&space));
    let node = cluster.tell(&["squeue", "-h", "-o", "%N"]).trim().to_string();
    cluster.kill_node(&node);
    until("a second start", || {
        cluster.hurry();
        lines(&space, "start") > 1
    });
    end(run).expect(0);
    is_done_once(&cluster, &space, 60);
}
