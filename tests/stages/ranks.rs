//! Stages on several ranks: the same bytes for any number of them, killed and continued with
//! another, and what is said of a rank that fails.

use crate::support::deadline::Deadline;
use crate::support::experiment::{Digests, Running, digests, events, is, some_digits};
use crate::support::space::{Said, Space};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Stdio};

/// Every kind that shares pieces, each of which has several of them where that is cheap.
const PIPELINE: &str = r#"
[stages.images]
kind = "images"
params = { source = "data/digits", resolution = 16, transform = "resize-bicubic", split = "train" }

[stages.held-out]
kind = "images"
params = { source = "data/digits", resolution = 16, transform = "resize-bicubic", split = "holdout" }

[stages.vae]
kind = "train-vae"
inputs = { images = "images" }
params = { block_out_channels = [4, 8, 8], steps = 2, batch = 8, measure_images = 64 }

[stages.encoder]
kind = "train-encoder"
inputs = { images = "images", holdout = "held-out" }
params = { patch_size = 8, dim = 16, depth = 2, heads = 2, steps = 2, batch = 8 }

[stages.classifier]
kind = "train-classifier"
inputs = { images = "images", holdout = "held-out" }
params = { channels = [4, 8], features = 16, norm_num_groups = 4, steps = 2, batch = 8 }

[stages.latents]
kind = "latents"
inputs = { images = "images", vae = "vae" }
params = { rows_per_shard = 70 }
resources = { threads = 1, ranks = 1 }

[stages.features]
kind = "features"
inputs = { images = "images", encoder = "encoder" }
resources = { threads = 1, ranks = 1 }

[stages.train]
kind = "train"
inputs = { latents = "latents", features = "features" }
params = { model = "custom", hidden = 16, blocks = 2, heads = 2, patch_size = 2, projector_dim = 24, encoder_depth = 1, steps = 2, batch = 8, lr = 1e-3, ema_decay = 0.9 }

[stages.sample]
kind = "sample"
inputs = { sit = "train", vae = "vae" }
params = { count = 26, steps = 12, cfg_scale = 1.5 }
operation = { batch = 6 }
resources = { threads = 1, ranks = 1 }

[stages.stats]
kind = "stats"
inputs = { images = "images", network = "classifier" }
params = { features = 30 }
resources = { threads = 1, ranks = 1 }

[stages.fid]
kind = "fid"
inputs = { samples = "images", reference = "held-out", network = "classifier" }
params = { metrics = ["fid", "precision", "recall"] }
resources = { threads = 1, ranks = 1 }

[stages.cknna]
kind = "cknna"
inputs = { sit = "train", latents = "latents", features = "features" }
params = { timesteps = [0.1, 0.5, 0.9], images = 60 }
resources = { threads = 1, ranks = 1 }

[stages.probe]
kind = "probe"
inputs = { sit = "train", latents = "latents", heldout = "latents" }
params = { timesteps = [0.1, 0.5, 0.9], images = 60 }
resources = { threads = 1, ranks = 1 }
"#;

const SHARING: [&str; 7] = ["latents", "features", "sample", "stats", "fid", "cknna", "probe"];

fn space() -> Space {
    let space = Space::new(PIPELINE);
    some_digits(&space.path("data/digits"));
    space
}

/// A run with so many ranks for each stage that shares its work.
fn on_ranks(space: &Space, ranks: usize, more: &[&str]) -> Command {
    space.write("p.toml", &PIPELINE.replace("ranks = 1", &format!("ranks = {ranks}")));
    space.command(&[&["run", "p.toml", "--json", "--threads", "4"], more].concat())
}

fn finish(space: &Space, ranks: usize, more: &[&str]) -> Digests {
    digests(&events(&Said::from(on_ranks(space, ranks, more).finish()).expect(0)))
}

/// Process ids below this process that are the worker of this rank.
fn workers(running: &Running, rank: usize) -> Vec<i32> {
    let variable = format!("ERW_RANK={rank}");
    let is_rank = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|v| v == variable.as_bytes())
    };
    running.workers().into_iter().filter(is_rank).collect()
}

fn is_alive(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn any_number_of_ranks_makes_the_same_bytes() {
    let space = space();
    let alone = finish(&space, 1, &[]);
    let forced: Vec<&str> = SHARING.iter().flat_map(|stage| ["--force", stage]).collect();
    for ranks in [2, 3] {
        let events = events(&Said::from(on_ranks(&space, ranks, &forced).finish()).expect(0));
        assert_eq!(digests(&events), alone, "{ranks} ranks");
        // Which of them were there is in the logs. One that comes when all is done may leave none.
        let last = format!("rank {} of {ranks}", ranks - 1);
        let was_there = |stage: &&str| {
            let said = space.erw(&["logs", "p.toml", stage, "--rank", &(ranks - 1).to_string()]);
            assert!(said.status == 2 || said.stdout.contains(&last), "{stage}: {}", said.stdout);
            said.status == 0
        };
        assert!(SHARING.iter().all(|stage| events.iter().any(|e| is(e, "started", stage))), "all ran again");
        let shared = SHARING.iter().filter(|stage| was_there(stage)).count();
        assert!(shared > SHARING.len() / 2, "of {ranks} ranks the last took part in {shared} stages");
    }
    let said = space.erw(&["logs", "p.toml", "stats", "--rank", "3"]).expect(2);
    assert!(said.stderr.contains("stage `stats` has no log of rank 3"), "{}", said.stderr);
}

/// Each stage in turn is killed at its first checkpoint, by killing the run, and continued by
/// another number of ranks.
#[test]
fn killed_stages_go_on_with_another_number_of_ranks() {
    let space = space();
    let calm = finish(&space, 1, &["--cache-dir", "calm"]);
    let mut killed = 0;
    for (i, stage) in ["latents", "sample", "stats", "fid", "cknna", "probe"].into_iter().enumerate() {
        let mut running = Running::start(on_ranks(&space, 1 + (i + 1) % 3, &[stage, "--cache-dir", "killed"]));
        running.until(|e| is(e, "started", stage));
        let workers = running.workers();
        running.until(|e| is(e, "checkpoint", stage));
        // On a busy machine the rest of a small stage may be done by now.
        let _ = kill(Pid::from_raw(running.pid()), Signal::SIGKILL);
        killed += u32::from(!running.end().success());
        space.until("the workers to end", || !workers.iter().any(|pid| is_alive(*pid)));
    }
    assert!(killed >= 3, "{killed} stages were killed");
    assert_eq!(finish(&space, 3, &["--cache-dir", "killed"]), calm);
}

/// A sampling that takes long enough to be disturbed, on two ranks.
fn slow() -> Space {
    let space = space();
    let slow = PIPELINE.replace("count = 26, steps = 12", "count = 400, steps = 60");
    space.write("p.toml", &slow.replace("ranks = 1", "ranks = 2"));
    Said::from(run(&space).arg("train").finish()).expect(0);
    space
}

fn run(space: &Space) -> Command {
    space.command(&["run", "p.toml", "--json", "--threads", "4"])
}

#[test]
fn a_rank_that_is_killed_ends_all_and_is_named() {
    let space = slow();
    let mut command = run(&space);
    command.arg("sample").stderr(Stdio::null());
    let mut running = Running::start(command);
    running.until(|e| is(e, "checkpoint", "sample"));
    let (first, second) = (workers(&running, 0), workers(&running, 1));
    assert_eq!((first.len(), second.len()), (1, 1));
    kill(Pid::from_raw(second[0]), Signal::SIGKILL).unwrap();
    let end = running.until(|e| is(e, "ended", "sample"));
    assert_eq!(end["error"]["message"], "rank 1: the worker was killed by SIGKILL", "{end}");
    assert!(end["error"]["log"].as_str().unwrap().ends_with(".rank-1.log"), "{end}");
    assert_eq!(running.end().code(), Some(1));
    assert!(!is_alive(first[0]));
}

/// By whichever rank it comes, all stop, and nothing has failed.
#[test]
fn a_rank_that_is_stopped_stops_all() {
    let space = slow();
    for rank in [0, 1] {
        let mut command = run(&space);
        command.arg("sample");
        let mut running = Running::start(command);
        running.until(|e| is(e, "checkpoint", "sample"));
        let all = running.workers();
        kill(Pid::from_raw(workers(&running, rank)[0]), Signal::SIGTERM).unwrap();
        let end = running.until(|e| is(e, "ended", "sample"));
        assert_eq!(end["state"], "suspended", "{end}");
        assert_eq!(running.end().code(), Some(3));
        space.until("the workers to end", || !all.iter().any(|pid| is_alive(*pid)));
    }
    let mut running = Running::start({
        let mut command = run(&space);
        command.arg("sample");
        command
    });
    running.until(|e| is(e, "checkpoint", "sample"));
    let all = running.workers();
    kill(Pid::from_raw(running.pid()), Signal::SIGINT).unwrap();
    assert_eq!(running.end().code(), Some(130));
    assert!(!all.iter().any(|pid| is_alive(*pid)));
}

/// As a scheduler could start them on a node with another installation, or without telling who they
/// are.
#[test]
fn a_rank_that_does_not_belong_says_so() {
    let space = Space::new("");
    let work = space.path("work");
    std::fs::create_dir_all(&work).unwrap();
    let job = serde_json::json!({"stage": "s", "kind": "features", "key": "k", "params": {}, "operation": {},
        "inputs": {}, "outputs": {}, "work_dir": work, "attempt": 1, "threads": 1, "ranks": 2, "device": "cpu",
        "cache": space.path("cache")});
    space.write("work/attempt-1.json", &job.to_string());
    let worker = || space.command(&["worker", "work/attempt-1.json"]);
    let said = Said::from(worker().finish()).expect(2);
    insta::assert_snapshot!("rank_without_a_number", said.stderr);

    let start = serde_json::json!({"start": " ",
        "program": {"version": "0.0.1", "size": 7, "path": "/opt/erw", "host": "n1"}});
    space.write("work/attempt-1.start.json", &start.to_string());
    space.write("work/machines.txt", "a machine\n");
    let mut rank = worker();
    rank.env("ERW_RANK", "1").env_remove("SLURM_JOB_ID").env_remove("SLURM_RESTART_COUNT");
    Said::from(rank.finish()).expect(1);
    let note: serde_json::Value = serde_json::from_str(&space.read("work/attempt-1.rank-1.end.json")).unwrap();
    let failure = &note["end"]["failed"];
    assert_eq!(failure["message"], "rank 1 runs another build of erw than rank 0");
    assert_eq!(failure["causes"][0], "rank 0: version 0.0.1 at `/opt/erw` on n1, 7 bytes");
    assert!(failure["causes"][1].as_str().unwrap().contains(env!("CARGO_BIN_EXE_erw")), "{failure}");
}
