//! Trainings on several ranks over MPI: the bytes of one rank, whatever is cut off in between.

use crate::support::deadline::Deadline;
use crate::support::skip;
use crate::support::space::{Said, Space};
use crate::support::training::{command, differences, made, space};
use erw::runner::kind::ranks::HAS_MPI;
use std::process::{Command, Stdio};

/// False, and the test is skipped, where ranks cannot find each other.
#[track_caller]
fn has_mpi() -> bool {
    let starts = Command::new("mpirun").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let why = match (HAS_MPI, starts) {
        (true, true) => return true,
        (false, _) => "the program is built without feature `mpi`",
        (true, false) => "there is no `mpirun`",
    };
    assert!(std::env::var_os("ERW_TEST_MPI").is_none_or(|v| v != "1"), "{why}");
    skip(why);
    false
}

/// Eight micro-batches, clipped, two averages, half of the steps aligned.
const SETTINGS: [&str; 10] = [
    "--set",
    "train.accumulate=8",
    "--set",
    "train.ema_decay=[0.9,0.5]",
    "--set",
    "train.max_grad_norm=0.1",
    "--set",
    "train.steps=12",
    "--set",
    "warmup.accumulate=4",
];

fn on(ranks: usize) -> [String; 2] {
    ["--set".into(), format!("train.resources.ranks={ranks}")]
}
