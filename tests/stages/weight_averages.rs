//! Weight averages that a training keeps: equal to those of shorter trainings, whatever stopped it,
//! and usable for sampling.

use crate::stages::two_phase_training::Lab;
use crate::support::bench::Ear;
use crate::support::space::file_names;
use erw::error::ErrorKind;
use erw::stages::sampling::sample;
use erw::stages::training::train;
use serde_json::{Value, json};
use std::path::PathBuf;

fn train_with(lab: &Lab, work: &str, changes: Value) -> PathBuf {
    lab.run(&train::KIND, work, changes, &lab.data(), &Ear::default()).unwrap_or_else(|e| panic!("{work}: {e}"));
    lab.artifact(work, "sit")
}

fn bytes(dir: &std::path::Path, weights: &str) -> Vec<u8> {
    std::fs::read(dir.join(format!("{weights}.safetensors"))).unwrap()
}

const SIX: [u64; 3] = [2, 3, 6];

fn six() -> Value {
    json!({"steps": 6, "snapshots": SIX, "checkpoint_every": 2, "lr": 1e-3})
}

/// Puts down a training after its third step.
fn cut(lab: &Lab, work: &str) {
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    let error = lab.run(&train::KIND, work, six(), &lab.data(), &ear).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Suspended);
    let kept = file_names(&lab.path(work).join("checkpoints/snapshots"));
    assert_eq!(kept, ["ema-000000000002.safetensors", "ema-000000000003.safetensors"]);
}

#[test]
fn the_average_after_k_steps_equals_that_of_a_training_of_k_steps() {
    let lab = Lab::new();
    let whole = train_with(&lab, "whole", six());
    let plain = train_with(&lab, "plain", json!({"steps": 6, "lr": 1e-3}));
    for weights in ["model", "ema"] {
        assert!(bytes(&whole, weights) == bytes(&plain, weights), "keeping changes nothing: {weights}");
    }
    for k in SIX {
        let short = train_with(&lab, &format!("short {k}"), json!({"steps": k, "lr": 1e-3}));
        assert!(bytes(&whole, &format!("ema@{k}")) == bytes(&short, "ema"), "step {k}");
    }
    cut(&lab, "cut");
    let resumed = train_with(&lab, "cut", six());
    for weights in ["ema@2", "ema@3", "ema@6", "ema", "model"] {
        assert!(bytes(&whole, weights) == bytes(&resumed, weights), "{weights}");
    }

    let inputs = [("sit", whole), ("vae", lab.path("vae"))];
    let draw = |work: &str, weights: &str| {
        let changes = json!({"count": 2, "steps": 2, "weights": weights});
        lab.run(&sample::KIND, work, changes, &inputs, &Ear::default())?;
        Ok::<_, erw::error::Error>(std::fs::read(lab.artifact(work, "samples").join("samples.npz")).unwrap())
    };
    assert!(draw("last", "ema@6").unwrap() == draw("end", "ema").unwrap());
    let error = draw("none", "ema@4").unwrap_err();
    assert_eq!(error.message, "input `sit` has no weights `ema@4`");
    assert_eq!(error.hints, ["available weights are `ema`, `ema@2`, `ema@3`, `ema@6`, `model`"]);
    let error = draw("odd", "ema@02").unwrap_err();
    assert_eq!(
        error.message,
        "`weights` must be `ema`, `model`, `ema-D` with the decay of a further average or `ema@K` with a step of \
         `snapshots`, not `ema@02`"
    );
}

/// Whatever is damaged, a training goes on from where everything is whole.
#[test]
fn a_resume_without_its_kept_averages_starts_before_them() {
    let lab = Lab::new();
    let whole = train_with(&lab, "whole", six());
    for (work, damage) in [("gone", false), ("torn", true)] {
        cut(&lab, work);
        let file = lab.path(work).join("checkpoints/snapshots/ema-000000000002.safetensors");
        match damage {
            true => std::fs::write(&file, "torn").unwrap(),
            false => std::fs::remove_file(&file).unwrap(),
        }
        let ear = Ear::default();
        lab.run(&train::KIND, work, six(), &lab.data(), &ear).unwrap();
        let said = ear.text();
        assert!(said.contains("cannot resume from step 3 without the averages of step 2"), "{said}");
        let again = lab.artifact(work, "sit");
        for weights in ["model", "ema", "ema@2", "ema@3", "ema@6"] {
            assert!(bytes(&whole, weights) == bytes(&again, weights), "{work}: {weights}");
        }
    }
}

#[test]
fn snapshots_must_ascend_within_the_training() {
    let lab = Lab::new();
    for (snapshots, text) in [
        (json!([3, 2]), "`snapshots` must ascend, but 3 comes before 2"),
        (json!([2, 7]), "`snapshots` has step 7, but the training has 6 steps"),
    ] {
        let changes = json!({"steps": 6, "snapshots": snapshots});
        let error = lab.run(&train::KIND, "bad", changes, &lab.data(), &Ear::default()).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Usage, text));
    }
}
