//! Trainings of the built program on several ranks over MPI: the bytes of one rank, whatever is cut
//! off in between.

use crate::support::cluster::Cluster;
use crate::support::experiment::{Running, is};
use crate::support::skip;
use crate::support::space::Space;
use crate::support::training::{Made, command, differences, made, made_by, space};
use erw::runner::kind::ranks::HAS_MPI;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::Cell;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Eight micro-batches of one sample, clipped gradients, two averages. The warmup has four.
const SETTINGS: [&str; 12] = [
    "--set",
    "train.accumulate=8",
    "--set",
    "train.ema_decay=[0.9,0.5]",
    "--set",
    "train.max_grad_norm=0.1",
    "--set",
    "train.steps=28",
    "--set",
    "warmup.accumulate=4",
    // More than this machine may have: ranks wait for each other most of the time.
    "--threads",
    "8",
];

/// False, and the test is skipped, where ranks cannot find each other. With `ERW_TEST_MPI=1` that is a
/// failure.
#[track_caller]
fn has_mpi() -> bool {
    let mut mpirun = Command::new("mpirun");
    let starts = mpirun.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let why = match (HAS_MPI, starts) {
        (true, true) => return true,
        (false, _) => "the program is built without feature `mpi`",
        (true, false) => "there is no `mpirun`",
    };
    assert!(std::env::var_os("ERW_TEST_MPI").is_none_or(|v| v != "1"), "{why}");
    skip(why);
    false
}

/// Runs of this space have so many ranks.
fn on(space: &Space, ranks: usize) {
    space.write("erw.toml", &format!("[default]\nranks = {ranks}\njob_threads = 1\n"));
}

/// The command lines of live processes that name this folder.
fn at_work(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path().join("cmdline")));
    let lines = processes.filter_map(|path| Some(std::fs::read_to_string(path).ok()?.replace('\0', " ")));
    lines.filter(|line| line.contains(name) && line.contains("worker")).collect()
}

/// Until no worker of the space lives.
fn wait_for_silence(space: &Space) {
    let began = Instant::now();
    while !at_work(&space.path("")).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "left behind: {:#?}", at_work(&space.path("")));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Trains until the training has logged so many steps.
fn train_for(space: &Space, steps: u64) -> Running {
    let mut run = Running::start(command(space, "cache", &SETTINGS));
    let heard = Cell::new(0);
    run.until(|event| {
        heard.set(heard.get() + u64::from(is(event, "metric", "train") && event["name"] == "loss"));
        heard.get() == steps
    });
    run
}

fn calm() -> Made {
    made(&space(""), "cache", &SETTINGS, "train")
}

#[test]
fn any_allowed_number_of_ranks_makes_the_same_bytes() {
    if !has_mpi() {
        return;
    }
    let (space, calm) = (space(""), calm());
    for ranks in [2, 4] {
        on(&space, ranks);
        let cache = format!("cache-{ranks}");
        let made = made(&space, &cache, &SETTINGS, "train");
        assert_eq!(differences(&calm, &made), [""; 0], "{ranks} ranks");
        let logs = std::fs::read_dir(space.path(&cache).join("v1/logs")).unwrap();
        let last = format!("attempt-1.rank-{}.log", ranks - 1);
        let of_last = logs.filter(|log| log.as_ref().unwrap().path().join(&last).exists()).count();
        assert_eq!(of_last, 2, "warmup and training had {ranks} ranks");
    }
}

#[test]
fn a_training_killed_on_four_ranks_goes_on_on_one_and_ends_on_two() {
    if !has_mpi() {
        return;
    }
    let space = space("");
    for (ranks, steps) in [(4, 4), (1, 5)] {
        on(&space, ranks);
        let run = train_for(&space, steps);
        kill(Pid::from_raw(run.pid()), Signal::SIGKILL).unwrap();
        run.end();
        wait_for_silence(&space);
    }
    on(&space, 2);
    assert_eq!(differences(&calm(), &made(&space, "cache", &SETTINGS, "train")), [""; 0]);
}

/// By the signal of Ctrl-C: all ranks stop after the same step, and it is no failure.
#[test]
fn a_stopped_training_goes_on_on_another_number_of_ranks() {
    if !has_mpi() {
        return;
    }
    let space = space("");
    on(&space, 4);
    let run = train_for(&space, 4);
    kill(Pid::from_raw(run.pid()), Signal::SIGINT).unwrap();
    assert_eq!(run.end().code(), Some(130));
    wait_for_silence(&space);
    on(&space, 2);
    assert_eq!(differences(&calm(), &made(&space, "cache", &SETTINGS, "train")), [""; 0]);
}

#[test]
fn a_dead_rank_ends_the_others_and_the_next_run_goes_on() {
    if !has_mpi() {
        return;
    }
    let space = space("");
    on(&space, 4);
    let run = train_for(&space, 4);
    let ranks = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let environment = std::fs::read(path.join("environ")).ok()?;
        let line = std::fs::read_to_string(path.join("cmdline")).ok()?;
        let is_last = environment.split(|byte| *byte == 0).any(|variable| variable == b"OMPI_COMM_WORLD_RANK=3");
        let is_ours = line.contains(space.path("").to_str().unwrap());
        (is_last && is_ours).then(|| path.file_name().unwrap().to_str().unwrap().parse::<i32>().unwrap())
    });
    let ranks: Vec<i32> = ranks.collect();
    assert_eq!(ranks.len(), 1, "{ranks:?}");
    kill(Pid::from_raw(ranks[0]), Signal::SIGKILL).unwrap();
    assert_eq!(run.end().code(), Some(1));
    wait_for_silence(&space);
    assert_eq!(differences(&calm(), &made(&space, "cache", &SETTINGS, "train")), [""; 0]);
}

/// Four ranks on two nodes, which `srun` starts.
#[test]
fn a_job_on_two_nodes_makes_the_bytes_of_one_process() {
    let Some(cluster) = (if has_mpi() { Cluster::start() } else { None }) else { return };
    let space = space("");
    // Both nodes are this machine, so ranks that take each other for neighbours could not share memory.
    let settings = "[default]\njob_threads = 1\nsetup = [\"export OMPI_MCA_btl=tcp,self\"]\n";
    space.write("erw.toml", &format!("{settings}[default.kinds.train]\nranks = 4\nsbatch = [\"--nodes=2\"]\n"));
    let run = ["run", "p.toml", "--json", "--cache-dir", "cache"];
    let made = made_by(cluster.command(&space, &[&run[..], &SETTINGS[..10]].concat()), &space, "cache", "train");
    assert_eq!(differences(&calm(), &made), [""; 0]);
    let keys = std::fs::read_dir(space.path("cache/v1/logs")).unwrap();
    let last = keys.filter(|key| key.as_ref().unwrap().path().join("attempt-1.rank-3.log").exists());
    assert_eq!(last.count(), 1, "the training had four ranks");
}
