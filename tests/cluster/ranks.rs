//! A stage on several ranks as one job: the bytes of this machine, stopped, robbed of a rank, and
//! continued with another number.

use super::*;
use crate::support::experiment::{Digests, digests, events, some_digits};
use std::process::Stdio;

const PIPELINE: &str = r#"
[stages.images]
kind = "images"
params = { source = "data/digits", resolution = 32, transform = "resize-bicubic", split = "train" }

[stages.vae]
kind = "train-vae"
inputs = { images = "images" }
params = { block_out_channels = [32, 64, 64], steps = 2, batch = 8, measure_images = 64 }

[stages.classifier]
kind = "train-classifier"
inputs = { images = "images", holdout = "images" }
params = { channels = [4, 8], features = 16, norm_num_groups = 4, steps = 2, batch = 8 }

[stages.latents]
kind = "latents"
inputs = { images = "images", vae = "vae" }
params = { rows_per_shard = 10 }
operation = { batch = 2 }
resources = { threads = 2, ranks = 3 }

[stages.stats]
kind = "stats"
inputs = { images = "images", network = "classifier" }
resources = { threads = 2, ranks = 3 }
"#;

/// With everything but the last two stages made, and these as one rank of this machine makes them.
fn space() -> (Space, Digests) {
    let space = Space::new(&PIPELINE.replace("ranks = 3", "ranks = 1"));
    some_digits(&space.path("data/digits"));
    let said = Said::from(space.command(&["run", "p.toml", "--json"]).finish()).expect(0);
    space.write("p.toml", PIPELINE);
    (space, digests(&events(&said)))
}

const AGAIN: [&str; 5] = ["run", "p.toml", "--json", "--force", "latents"];

fn work(space: &Space) -> Vec<std::path::PathBuf> {
    let all = walkdir::WalkDir::new(space.path("cache/v1/work")).into_iter().filter_map(|e| Some(e.ok()?.into_path()));
    all.collect()
}

fn has_piece(space: &Space) -> bool {
    work(space).iter().any(|p| p.extension().is_some_and(|e| e == "safetensors"))
}

fn pid_of_rank(cluster: &Cluster, rank: usize) -> Option<i32> {
    let wanted = [format!("SLURM_PROCID={rank}"), format!("SLURM_CONF={}", cluster.conf().display())];
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has = |wanted: &String| environment.split(|b| *b == 0).any(|v| v == wanted.as_bytes());
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "erw" && wanted.iter().all(has)
    })
}

/// If the process has a handler for this signal.
fn catches(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).is_some_and(|m| m >> (signal as u32 - 1) & 1 == 1)
}

#[test]
fn three_ranks_on_two_nodes_make_the_bytes_of_one() {
    let Some(cluster) = Cluster::start() else { return };
    let (space, alone) = space();
    let said = Said::from(cluster.command(&space, &[&AGAIN[..], &["--force", "stats"]].concat()).finish()).expect(0);
    assert_eq!(digests(&events(&said)), alone);
    for rank in 1..3 {
        let logs = cluster.command(&space, &["logs", "p.toml", "latents", "--rank", &rank.to_string()]).finish();
        let logs = Said::from(logs).expect(0);
        assert!(logs.stdout.contains(&format!("rank {rank} of 3")), "{}", logs.stdout);
    }
    until("the queue to be empty", || cluster.jobs().is_empty());
}

/// Stopped, then continued by two ranks; a rank of these is killed, and the rest ends with it; the
/// stage goes on from the pieces that are there.
#[test]
fn ranks_are_stopped_killed_and_continued() {
    let Some(cluster) = Cluster::start() else { return };
    let (space, alone) = space();
    let start = || cluster.command(&space, &AGAIN).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
    let run = start();
    // A rank is held before its first piece, or a fast machine would have made all of them.
    until("a rank that hears", || pid_of_rank(&cluster, 1).is_some_and(|p| catches(p, Signal::SIGTERM)));
    let held = pid_of_rank(&cluster, 1).unwrap();
    kill(Pid::from_raw(held), Signal::SIGSTOP).unwrap();
    until("a piece of another rank", || has_piece(&space));
    signal(&run, Signal::SIGINT);
    // Slurm continues what it signals.
    end(run).expect(130);
    until("the queue to be empty", || cluster.jobs().is_empty());
    assert!(has_piece(&space));

    space.write("p.toml", &PIPELINE.replace("ranks = 3", "ranks = 2"));
    let run = start();
    until("the second rank", || pid_of_rank(&cluster, 1).is_some());
    kill(Pid::from_raw(pid_of_rank(&cluster, 1).unwrap()), Signal::SIGKILL).unwrap();
    let said = end(run).expect(0);
    assert!(digests(&events(&said)).iter().all(|(stage, made)| alone[stage] == *made), "{}", said.stdout);
    until("the queue to be empty", || cluster.jobs().is_empty());
}
