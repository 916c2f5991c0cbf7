//! Validation losses and sample pictures during a training of a SiT: they change nothing, and a
//! diverged training gives hints.

use crate::stages::two_phase_training::{Lab, pack};
use crate::support::bench::Ear;
use crate::support::deadline::Deadline;
use crate::support::space::Space;
use crate::support::space::file_names;
use candle_core::{Device, Tensor};
use erw::error::ErrorKind;
use erw::ml::models::sit::SiTConfig;
use erw::ml::nn::params;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::train::saved_weights;
use erw::stages;
use erw::stages::training::{train, warmup};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const CPU: Device = Device::Cpu;

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Latents that `Lab` does not train on.
fn held_out(lab: &Lab, name: &str, scaling_factor: f64) -> PathBuf {
    let rows: Vec<u64> = (100..105).collect();
    let normal = |tag| rng::normal_rows(tag, Purpose::Probe, 0, &rows, &[4, 4, 4], &CPU).unwrap();
    let labels = Tensor::from_iter((0..5i64).map(|i| i % 3), &CPU).unwrap();
    let std = (normal(8).abs().unwrap() * 0.1).unwrap();
    let all = [("mean".to_string(), normal(9)), ("std".to_string(), std), ("labels".to_string(), labels)];
    let meta = json!({"channels": 4, "height": 4, "width": 4, "scaling_factor": scaling_factor, "shift_factor": 0.1,
        "classes": ["zero", "one", "two"]});
    pack(&lab.path(name), "latents", all.into(), &meta);
    lab.path(name)
}

#[test]
fn validation_leaves_weights_unchanged_and_resumes() {
    let lab = Lab::new();
    let mut inputs = lab.data();
    inputs.push(("validation", held_out(&lab, "held-out", 0.9)));
    inputs.push(("decoder", lab.path("vae")));
    let changes = json!({"checkpoint_every": 2, "steps": 5, "validate_every": 2, "validation_samples": 3,
        "samples_every": 2, "accumulate": 2, "keep_last": 9});
    lab.run(&train::KIND, "plain", json!({"steps": 5, "accumulate": 2}), &lab.data(), &Ear::default()).unwrap();
    let ear = Ear::default();
    lab.run(&train::KIND, "whole", changes.clone(), &inputs, &ear).unwrap();
    let cut = Ear { stop_at_checkpoint: true, ..Ear::default() };
    let error = lab.run(&train::KIND, "cut", changes.clone(), &inputs, &cut).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Suspended);
    lab.run(&train::KIND, "cut", changes, &inputs, &Ear::default()).unwrap();
    let bytes = |work, file| std::fs::read(lab.artifact(work, "sit").join(file)).unwrap();
    for file in ["model.safetensors", "ema.safetensors", "curve.jsonl"] {
        assert!(bytes("whole", file) == bytes("cut", file) && bytes("whole", file) == bytes("plain", file), "{file}");
    }
    assert!(bytes("whole", "validation.jsonl") == bytes("cut", "validation.jsonl"));
    assert!(!lab.artifact("plain", "sit").join("validation.jsonl").exists());

    let series = lines(&lab.artifact("whole", "sit").join("validation.jsonl"));
    assert_eq!(series.iter().map(|p| p["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4, 5]);
    for point in &series {
        for set in ["model", "ema"] {
            let losses = point[set].as_object().unwrap();
            let at: Vec<f64> =
                losses.iter().filter(|(k, _)| k.contains('@')).map(|(_, v)| v.as_f64().unwrap()).collect();
            let mean = at.iter().sum::<f64>() / at.len() as f64;
            assert!(at.len() == 8 && (mean - losses["velocity"].as_f64().unwrap()).abs() < 1e-12, "{point}");
        }
    }
    let said = ear.text();
    assert!(said.contains("\"validation_velocity\"") && said.contains("\"validation_velocity_ema\""), "{said}");
    let pictures = lab.path("whole").join("pictures");
    assert_eq!(file_names(&pictures), ["step-000000000002.png", "step-000000000004.png", "step-000000000005.png"]);
    assert!(said.contains(&format!("samples after 2 steps: {}/step-000000000002.png", pictures.display())), "{said}");
    // 4 x 4 images of 8 pixels, eightfold, with gaps of 2.
    let sheet = image::open(pictures.join("step-000000000005.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (266, 266));
}

#[test]
fn validation_does_not_depend_on_micro_batches() {
    let lab = Lab::new();
    let series = |work: &str, accumulate: usize| {
        let changes = json!({"steps": 1, "lr": 0.0, "validate_every": 1, "validation_samples": 5,
            "accumulate": accumulate});
        lab.run(&train::KIND, work, changes, &lab.data(), &Ear::default()).unwrap();
        lines(&lab.artifact(work, "sit").join("validation.jsonl"))[0]["model"]["velocity"].as_f64().unwrap()
    };
    let (whole, split) = (series("whole", 1), series("split", 4));
    assert!((whole - split).abs() < 1e-6 * whole, "{whole} against {split}");
}

#[test]
fn a_warmup_validates_its_alignment() {
    let lab = Lab::new();
    let ear = Ear::default();
    let changes = json!({"validate_every": 2, "validation_samples": 5});
    lab.run(&warmup::KIND, "w", changes, &lab.data(), &ear).unwrap();
    lab.run(&warmup::KIND, "plain", json!({}), &lab.data(), &Ear::default()).unwrap();
    let bytes = |work| std::fs::read(lab.artifact(work, "warmed").join("model.safetensors")).unwrap();
    assert!(bytes("w") == bytes("plain"));
    let series = lines(&lab.artifact("w", "warmed").join("validation.jsonl"));
    assert_eq!(series.len(), 2);
    let loss = series[1]["model"]["alignment"].as_f64().unwrap();
    assert!((-1.0..=1.0).contains(&loss) && loss != series[0]["model"]["alignment"].as_f64().unwrap());
    assert!(ear.text().contains("\"validation_alignment\""));
}

/// With a rate of learning of 0 the first step's loss is that of the weights that are validated
/// afterwards.
#[test]
fn warmup_validation_uses_the_training_loss() {
    let lab = Lab::new();
    let loss = |work: &str, options: Value| {
        let mut changes = json!({"steps": 1, "lr": 0.0, "batch": 4, "validate_every": 1, "validation_samples": 6});
        changes.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        lab.run(&warmup::KIND, work, changes, &lab.data(), &Ear::default()).unwrap();
        let series = lines(&lab.artifact(work, "warmed").join("validation.jsonl"));
        series[0]["model"]["alignment"].as_f64().unwrap()
    };
    let plain = loss("plain", json!({}));
    let normed = loss("normed", json!({"spatial_norm": "zscore"}));
    assert!((plain - normed).abs() > 1e-4, "{plain} and {normed}");
    // Cosines are between -1 and 1; the contrastive loss of four images starts near ln 4.
    let contrasted = loss("contrasted", json!({"alignment_loss": "nt-xent", "temperature": 10.0}));
    assert!((contrasted - 4f64.ln()).abs() < 0.2, "{contrasted}");
}

#[test]
fn invalid_validation_options_are_refused() {
    let lab = Lab::new();
    let with = |path: PathBuf| {
        let mut inputs = lab.data();
        inputs.push(("validation", path));
        inputs
    };
    let inputs = with(held_out(&lab, "held-out", 0.9));
    let error = lab.run(&train::KIND, "a", json!({}), &inputs, &Ear::default()).unwrap_err();
    assert_eq!(error.message, "input `validation` is connected, but `validate_every` is 0");
    let inputs = with(held_out(&lab, "scaled", 0.5));
    let error = lab.run(&train::KIND, "b", json!({"validate_every": 1}), &inputs, &Ear::default()).unwrap_err();
    assert_eq!(error.message, "input `validation` differs from `latents` in the scale of latents");
}

/// From the error's own words to a training that starts from the checkpoint's weights.
#[test]
fn a_diverged_training_gives_hints_that_work() {
    let lab = Lab::new();
    let changes = json!({"steps": 9, "lr": 1e18, "checkpoint_every": 1, "max_grad_norm": 0.0});
    let error = lab.run(&train::KIND, "t", changes, &lab.data(), &Ear::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Stage);
    assert!(error.message.starts_with("the training diverged: "), "{error}");
    let dir = lab.path("t").join("checkpoints");
    let kept: Vec<String> = file_names(&dir).into_iter().filter(|f| f.starts_with("step-")).collect();
    assert_eq!(kept.len(), 1, "{error}");
    let checkpoint = dir.join(&kept[0]);
    let saved = saved_weights(&checkpoint).unwrap();
    let cause = format!("the last good checkpoint is at step {}: `{}`", saved.step, checkpoint.display());
    assert_eq!(error.causes, [cause]);
    let first =
        "a rerun with the same parameters diverges again; try a lower `lr`, `max_grad_norm = 1.0`, or `qk_norm = true`";
    let second = format!(
        "to start from its weights with other parameters: `erw weights export {} --set model --out FILE`, then `init` \
         from a stage of kind `weights` with `as = \"sit\"`, `source = \"FILE\"` and `config = \"{}\"`",
        checkpoint.display(),
        dir.join("config.json").display()
    );
    assert_eq!(error.hints, [first, &second]);

    let file = lab.path("model.safetensors");
    let out = Command::new(env!("CARGO_BIN_EXE_erw"))
        .args(["weights", "export", checkpoint.to_str().unwrap(), "--set", "model", "--out", file.to_str().unwrap()])
        .finish();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let given = json!({"as": "sit", "source": file, "config": dir.join("config.json"), "preset": null, "url": null,
        "sha256": null});
    lab.run(&stages::data::weights::KIND, "import", given, &[], &Ear::default()).unwrap();
    let mut inputs = lab.data();
    inputs.push(("init", lab.artifact("import", "weights")));
    lab.run(&train::KIND, "on", json!({"steps": 0}), &inputs, &Ear::default()).unwrap();
    let begun = params::load(&lab.artifact("on", "sit").join("model.safetensors"), &CPU).unwrap();
    let config: SiTConfig = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    assert_eq!(config.depth, 2);
    for (name, t) in &saved.model {
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(t), flat(&begun[name]), "{name}");
    }
}

#[test]
fn sample_pictures_are_kept_with_the_log() {
    let space = Space::new(
        r#"
[stages.s]
kind = "command"
run = "mkdir {checkpoints}/../pictures; echo x > {checkpoints}/../pictures/step-1.png; echo said; echo o > {outputs.o}"
outputs = { o = "text" }
"#,
    );
    space.run(&[]).expect(0);
    let said = space.erw(&["logs", "p.toml", "s"]).expect(0).stdout;
    let (log, pictures) = said.split_once("pictures: ").unwrap();
    assert_eq!(log, "said\n");
    assert_eq!(std::fs::read_to_string(space.path(pictures.trim()).join("step-1.png")).unwrap(), "x\n", "{said}");
}
