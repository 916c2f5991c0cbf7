//! Several encoders in one slot, and features computed during training: the same bits as stored
//! features, one projector an encoder, and inputs that do not fit together are refused before a
//! run.

use crate::support::bench::{Bench, Ear};
use crate::support::experiment::{Experiment, digests, events};
use crate::support::space::Space;
use candle_core::{Device, Tensor};
use erw::error::{Error, ErrorKind};
use erw::ml::data::packed::PackedWriter;
use erw::ml::models::sit::SiTConfig;
use erw::ml::models::vit::Vit;
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::train::batch_indices;
use erw::runner::kind::StageKind;
use erw::runner::pipeline::graph::Pipeline;
use erw::runner::pipeline::layers::Overrides;
use erw::stages::KINDS;
use erw::stages::data::features;
use erw::stages::evaluation::{cknna, probe};
use erw::stages::training::{train, train_encoder, warmup};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;
const ROWS: u64 = 12;

pub type Inputs = Vec<(&'static str, PathBuf)>;

/// Twelve images of 8 x 8 pixels with their latents, two encoders, and the features of both.
pub struct Lab {
    pub bench: Bench,
}

impl Lab {
    pub fn new() -> Self {
        let lab = Self { bench: Bench::new() };
        let labels: Vec<i64> = (0..ROWS as i64).map(|i| i % 3).collect();
        lab.images("images", &labels);
        let meta = json!({"channels": 4, "height": 4, "width": 4, "scaling_factor": 0.9, "shift_factor": 0.1,
            "classes": ["zero", "one", "two"]});
        let std = (normal(1, &[4, 4, 4]).abs().unwrap() * 0.1).unwrap();
        let labels = Tensor::new(labels, &CPU).unwrap();
        let rows = [("mean", normal(2, &[4, 4, 4])), ("std", std), ("labels", labels)];
        pack(&lab.path("latents"), "latents", &rows, &meta);
        for (name, seed, dim) in [("one", 1, 8), ("two", 2, 12)] {
            let tiny = json!({"seed": seed, "dim": dim, "patch_size": 4, "depth": 1, "heads": 2, "steps": 1});
            lab.encoder(name, tiny);
        }
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.bench.path(name)
    }

    pub fn images(&self, name: &str, labels: &[i64]) {
        let n = labels.len();
        let pixels: Vec<u8> = (0..n * 8 * 8 * 3).map(|i| (i * i % 251) as u8).collect();
        let pixels = Tensor::from_vec(pixels, (n, 8, 8, 3), &CPU).unwrap();
        let rows = [("images", pixels), ("labels", Tensor::new(labels, &CPU).unwrap())];
        pack(&self.path(name), "images", &rows, &json!({"classes": ["zero", "one", "two"]}));
    }

    /// An encoder at `NAME/attempt-1/encoder` and its features at `NAME-features/attempt-1/features`.
    pub fn encoder(&self, name: &str, given: Value) {
        let images = self.path("images");
        let encoder = self.bench.run(name, &train_encoder::KIND, &[("images", &images)], given).unwrap();
        let inputs: [(&str, &Path); 2] = [("images", &images), ("encoder", &encoder)];
        self.bench.run(&format!("{name}-features"), &features::KIND, &inputs, json!({})).unwrap();
    }

    pub fn stored(&self, encoders: &[&str]) -> Inputs {
        let slots = ["features", "features.1"].into_iter();
        let paths = encoders.iter().map(|e| self.path(&format!("{e}-features")).join("attempt-1/features"));
        [("latents", self.path("latents"))].into_iter().chain(slots.zip(paths)).collect()
    }

    pub fn online(&self, encoders: &[&str]) -> Inputs {
        let slots = ["encoder", "encoder.1"].into_iter();
        let paths = encoders.iter().map(|e| self.path(e).join("attempt-1/encoder"));
        let data = [("latents", self.path("latents")), ("images", self.path("images"))];
        data.into_iter().chain(slots.zip(paths)).collect()
    }

    pub fn attempt(
        &self,
        work: &str,
        kind: &StageKind,
        inputs: &Inputs,
        more: Value,
        ear: &Ear,
    ) -> Result<PathBuf, Error> {
        let online = inputs.iter().any(|(slot, _)| *slot == "encoder");
        let mut given = json!({"model": "custom", "hidden": 24, "blocks": 2, "heads": 2, "patch_size": 2,
            "projector_dim": 16, "batch": 4, "steps": 3, "ema_decay": 0.5});
        given["features"] = json!(if online { "online" } else { "stored" });
        given[if kind.name == "train" { "encoder_depth" } else { "depth" }] = json!(1);
        given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let inputs: Vec<(&str, &Path)> = inputs.iter().map(|(slot, path)| (*slot, path.as_path())).collect();
        self.bench.attempt(work, kind, &inputs, &given, ear)?;
        Ok(self.path(work).join("attempt-1").join(if kind.name == "train" { "sit" } else { "warmed" }))
    }

    pub fn run(&self, work: &str, kind: &StageKind, inputs: &Inputs, more: Value) -> PathBuf {
        self.attempt(work, kind, inputs, more, &Ear::default()).unwrap()
    }

    pub fn refused(&self, kind: &StageKind, inputs: &Inputs) -> String {
        self.attempt("refused", kind, inputs, json!({}), &Ear::default()).unwrap_err().message
    }
}

pub fn normal(tag: u64, shape: &[usize]) -> Tensor {
    let rows: Vec<u64> = (0..ROWS).collect();
    rng::normal_rows(tag, Purpose::Probe, 0, &rows, shape, &CPU).unwrap()
}

pub fn pack(dir: &Path, stem: &str, rows: &[(&str, Tensor)], meta: &Value) {
    let mut writer = PackedWriter::create(dir, stem, 5).unwrap();
    writer.push(&rows.iter().map(|(name, t)| (name.to_string(), t.clone())).collect()).unwrap();
    writer.finish(meta).unwrap();
}

fn weights_of(artifact: &Path) -> Tensors {
    params::load(&artifact.join("model.safetensors"), &CPU).unwrap()
}

#[track_caller]
pub fn assert_same_artifact(a: &Path, b: &Path) {
    for file in ["model.safetensors", "ema.safetensors", "curve.jsonl", "config.json"] {
        assert!(std::fs::read(a.join(file)).unwrap() == std::fs::read(b.join(file)).unwrap(), "{file} differs");
    }
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn changed(a: &Tensors, b: &Tensors, prefix: &str) -> bool {
    let names: Vec<&String> = a.keys().filter(|n| n.starts_with(prefix)).collect();
    assert!(!names.is_empty(), "no {prefix}");
    names.iter().all(|n| numbers(&a[*n]) != numbers(&b[*n]))
}

#[test]
fn online_features_give_the_same_bits_as_stored_ones() {
    let lab = Lab::new();
    let both = ["one", "two"];
    for (kind, more) in [(&warmup::KIND, json!({"accumulate": 2})), (&train::KIND, json!({"accumulate": 4}))] {
        let stored = lab.run(&format!("stored-{}", kind.name), kind, &lab.stored(&both), more.clone());
        let online = lab.run(&format!("online-{}", kind.name), kind, &lab.online(&both), more);
        assert_same_artifact(&stored, &online);
    }
}

#[test]
fn stopped_online_training_resumes() {
    let lab = Lab::new();
    let (inputs, more) = (lab.online(&["two"]), json!({"steps": 5, "checkpoint_every": 2}));
    let whole = lab.run("whole", &train::KIND, &inputs, more.clone());
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    let error = lab.attempt("cut", &train::KIND, &inputs, more.clone(), &ear).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Suspended);
    assert_same_artifact(&whole, &lab.run("cut", &train::KIND, &inputs, more));
}

/// The attention of an encoder is aligned as long as its features are, and resumes.
#[test]
fn attention_of_an_encoder_is_aligned() {
    let lab = Lab::new();
    let inputs = lab.online(&["two"]);
    let more = json!({"steps": 5, "checkpoint_every": 2, "alignment": "stop-at", "alignment_steps": 3, "attention": 1.0,
        "attention_blocks": [2], "attention_encoder_blocks": [1]});
    let whole = lab.run("whole", &train::KIND, &inputs, more.clone());
    let curve = std::fs::read_to_string(whole.join("curve.jsonl")).unwrap();
    let of = |l: &str| serde_json::from_str::<Value>(l).unwrap()["parts"]["attention"].as_f64().unwrap();
    let attention: Vec<f64> = curve.lines().map(of).collect();
    // A cross-entropy over four patches, of maps that are nearly even at first.
    assert!(attention[..3].iter().all(|a| (1.0..2.0).contains(a)) && attention[3..] == [0.0, 0.0], "{attention:?}");
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    lab.attempt("cut", &train::KIND, &inputs, more.clone(), &ear).unwrap_err();
    assert_same_artifact(&whole, &lab.run("cut", &train::KIND, &inputs, more.clone()));
    let mut plain = more.clone();
    plain["attention"] = json!(0.0);
    let plain = lab.run("plain", &train::KIND, &inputs, plain);
    assert!(changed(&weights_of(&plain), &weights_of(&whole), "blocks.1.attn.qkv"));

    let refused = |changes: Value, inputs: &Inputs| {
        let mut given = more.clone();
        given.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        lab.attempt("refused", &train::KIND, inputs, given, &Ear::default()).unwrap_err()
    };
    let usage = |changes: Value, inputs: &Inputs| {
        let error = refused(changes, inputs);
        assert_eq!(error.kind, ErrorKind::Usage, "{error}");
        error.message
    };
    assert_eq!(
        usage(json!({}), &lab.stored(&["two"])),
        "`attention` compares with the attention of an encoder, which stored features do not have"
    );
    assert_eq!(usage(json!({}), &lab.online(&["one", "two"])), "`attention` is given, but the number of encoders is 2");
    assert_eq!(usage(json!({"alignment": "none"}), &inputs), "`attention` is given, but nothing is aligned");
    assert_eq!(
        usage(json!({"attention_blocks": [1, 2]}), &inputs),
        "`attention_blocks` has 2 blocks, but `attention_encoder_blocks` has 1"
    );
    assert_eq!(
        usage(json!({"attention_blocks": [3]}), &inputs),
        "`attention_blocks` 3 is not one of the blocks 1 to 2"
    );
    let error = refused(json!({"attention_encoder_blocks": [2]}), &inputs);
    assert!(error.to_string().contains("block 2 is not one of the encoder's blocks 1 to 1"), "{error}");
}

/// The class token of an encoder is trained as a part of the state, sampled, and read back by its
/// published names.
#[test]
fn a_class_token_is_trained_and_sampled() {
    let lab = Lab::new();
    let vit = json!({"image_size": 8, "patch_size": 4, "dim": 12, "depth": 1, "heads": 2, "mlp_dim": 24,
        "class_token": true, "layer_scale": true, "exact_gelu": true, "final_norm": true, "eps": 1e-6});
    let (weights, vb) = params::ParamSet::init(3, candle_core::DType::F32, &CPU);
    Vit::new(&serde_json::from_value(vit.clone()).unwrap(), vb).unwrap();
    let encoder = lab.path("with-class/attempt-1/encoder");
    std::fs::create_dir_all(&encoder).unwrap();
    params::save(&weights.tensors(), &encoder.join("encoder.safetensors")).unwrap();
    let config = json!({"vit": vit, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]});
    std::fs::write(encoder.join("config.json"), config.to_string()).unwrap();
    let inputs = lab.online(&["with-class"]);
    let more = json!({"steps": 5, "checkpoint_every": 2, "alignment": "stop-at", "alignment_steps": 3, "rope": false,
        "class_token": 0.03, "samples_every": 2});
    let whole = lab.run("whole", &train::KIND, &inputs, more.clone());
    let curve = std::fs::read_to_string(whole.join("curve.jsonl")).unwrap();
    let of = |l: &str| serde_json::from_str::<Value>(l).unwrap()["parts"]["class_velocity"].as_f64().unwrap();
    // Its velocity is learned also when nothing is aligned any more.
    assert!(curve.lines().map(of).all(|v| v > 0.1), "{curve}");
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    lab.attempt("cut", &train::KIND, &inputs, more.clone(), &ear).unwrap_err();
    assert_same_artifact(&whole, &lab.run("cut", &train::KIND, &inputs, more.clone()));

    let tensors = params::load(&whole.join("ema.safetensors"), &CPU).unwrap();
    assert_eq!(tensors["pos_embed"].dims(), [1, 5, 24]);
    assert_eq!(tensors["cls_projectors2.weight"].dims(), [24, 12]);
    let read = SiTConfig::of_release(Some("SiT-B/2"), &tensors).unwrap();
    assert_eq!((read.class_token, read.input_size), (Some(12), 4));

    let of = |name: &str, params: Value| {
        let inputs = [("images", lab.path("images")), ("encoder", encoder.clone())];
        let inputs: Vec<(&str, &Path)> = inputs.iter().map(|(slot, path)| (*slot, path.as_path())).collect();
        lab.bench.run(name, &features::KIND, &inputs, params).unwrap();
    };
    of("with-class-features", json!({"class_token": true}));
    let stored = lab.stored(&["with-class"]);
    assert_same_artifact(&whole, &lab.run("stored", &train::KIND, &stored, more.clone()));
    measured(&lab, &whole, &stored);

    of("patches-features", json!({}));
    for inputs in [lab.online(&["two"]), lab.stored(&["patches"])] {
        let error = lab.attempt("without", &train::KIND, &inputs, more.clone(), &Ear::default()).unwrap_err();
        assert!(error.message.starts_with("the encoder has no class token"), "{error}");
    }
    let usage = |changes: Value, inputs: &Inputs| {
        let mut given = more.clone();
        given.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let error = lab.attempt("refused", &train::KIND, inputs, given, &Ear::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage, "{error}");
        error.message
    };
    assert!(usage(json!({}), &lab.online(&["one", "two"])).contains("the number of encoders is 2"));
    assert!(usage(json!({"alignment": "none"}), &inputs).contains("nothing is aligned"));
    assert!(usage(json!({"rope": true}), &inputs).starts_with("`rope` has no position for a class token"));
    assert!(usage(json!({"projector": "conv3"}), &inputs).contains("no place for a class token"));
    assert!(usage(json!({"spatial_norm": "zscore"}), &inputs).contains("`spatial_norm` is over patches"));
    assert!(usage(json!({"validate_every": 1}), &inputs).contains("`validate_every`"));
    let with = json!({"self_alignment": 0.2, "self_alignment_depth": 1, "self_alignment_teacher": 2});
    assert!(usage(with, &inputs).contains("does not go with `self_alignment`"));
    let with = json!({"latent_alignment": 1.0, "latent_alignment_depth": 1});
    assert!(usage(with, &inputs).contains("does not go with `latent_alignment`"));
}

/// CKNNA and probe noise the stored class tokens as they noise the latents, and cannot do without.
fn measured(lab: &Lab, sit: &Path, stored: &Inputs) {
    let run = |name: &str, kind: &'static StageKind, slots: &[(&'static str, &str)], given: Value| {
        let of = |slot: &str| stored.iter().find(|(s, _)| *s == slot).map(|(_, path)| path.clone());
        let mut inputs = vec![("sit", sit.to_path_buf())];
        inputs.extend(slots.iter().map(|(slot, from)| (*slot, of(from).unwrap_or_else(|| lab.path(from)))));
        let inputs: Vec<(&str, &Path)> = inputs.iter().map(|(slot, path)| (*slot, path.as_path())).collect();
        lab.bench.run(name, kind, &inputs, given)
    };
    let few = json!({"k": 3, "timesteps": [0.5]});
    run("cknna-of-class", &cknna::KIND, &[("latents", "latents"), ("features", "features")], few.clone()).unwrap();
    assert!(lab.bench.result("cknna-of-class", "cknna").unwrap().is_finite());
    let pair = [("latents", "latents"), ("heldout", "latents")];
    let features = [("features", "features"), ("heldout_features", "features")];
    run("probe-of-class", &probe::KIND, &[pair, features].concat(), few.clone()).unwrap();
    let error = run("without-features", &probe::KIND, &pair, few).unwrap_err();
    assert!(error.message.contains("takes a noised class token beside each latent"), "{error}");
}

#[test]
fn every_encoder_has_a_projector_that_learns_and_carries_over() {
    let lab = Lab::new();
    let both = lab.stored(&["one", "two"]);
    for kind in [&warmup::KIND, &train::KIND] {
        let fresh = lab.run(&format!("fresh-{}", kind.name), kind, &both, json!({"steps": 0}));
        let config: SiTConfig = serde_json::from_slice(&std::fs::read(fresh.join("config.json")).unwrap()).unwrap();
        assert_eq!(config.z_dims, [8, 12]);
        let done = lab.run(&format!("done-{}", kind.name), kind, &both, json!({"steps": 1, "lr": 1e-2}));
        let (before, after) = (weights_of(&fresh), weights_of(&done));
        for projector in ["projectors.0", "projectors.1"] {
            assert!(changed(&before, &after, projector), "{}: {projector} did not learn", kind.name);
        }
    }
    let warmed = lab.path("done-warmup/attempt-1/warmed");
    let mut inputs = both;
    inputs.push(("init", warmed.clone()));
    let (ear, given) = (Ear::default(), json!({"steps": 0}));
    let sit = lab.attempt("handed", &train::KIND, &inputs, given, &ear).unwrap();
    let (before, after) = (weights_of(&warmed), weights_of(&sit));
    assert!(before.iter().all(|(name, t)| numbers(t) == numbers(&after[name])));
    assert!(ear.text().contains("projectors.0-1"), "{}", ear.text());
}

#[test]
fn projectors_follow_the_order_of_encoders() {
    let lab = Lab::new();
    let sit = lab.run("swapped", &train::KIND, &lab.online(&["two", "one"]), json!({"steps": 1}));
    let tensors = weights_of(&sit);
    let outputs = ["projectors.0.4.bias", "projectors.1.4.bias"].map(|name| tensors[name].dims().to_vec());
    assert_eq!(outputs, [[12], [8]]);
}

/// A SiT of several encoders is measured against one.
#[test]
fn cknna_is_measured_with_either_encoder() {
    let lab = Lab::new();
    let sit = lab.run("sit", &train::KIND, &lab.online(&["one", "two"]), json!({"steps": 1}));
    let against = |encoder: &str| {
        let mut inputs = lab.stored(&[encoder]);
        inputs.push(("sit", sit.clone()));
        let inputs: Vec<(&str, &Path)> = inputs.iter().map(|(slot, path)| (*slot, path.as_path())).collect();
        lab.bench.run(encoder, &cknna::KIND, &inputs, json!({"k": 3, "timesteps": [0.5]})).unwrap();
        lab.bench.result(encoder, "cknna").unwrap()
    };
    let scores = ["one", "two"].map(against);
    assert!(scores.iter().all(|s| s.is_finite()) && scores[0] != scores[1], "{scores:?}");
}

/// The alignment is that of the images alone, in both phases and in validation.
#[test]
fn a_relation_is_no_part_of_the_alignment() {
    let lab = Lab::new();
    let more = |relation: f64| json!({"steps": 1, "relation": relation, "validate_every": 1});
    for relation in [0.0, 50.0] {
        lab.run(&format!("warm-{relation}"), &warmup::KIND, &lab.stored(&["one"]), more(relation));
    }
    let of = |name: &str| [0, 50].map(|relation| lab.bench.result(&format!("warm-{relation}"), name).unwrap());
    let [alone, beside] = of("alignment");
    assert_eq!(alone, beside, "both are of the initial weights");
    let [alone, beside] = of("validation_alignment");
    assert!((alone - beside).abs() < 0.3, "{alone} {beside}");
    let curve = std::fs::read_to_string(lab.path("warm-50/attempt-1/warmed/curve.jsonl")).unwrap();
    assert!(curve.contains("\"relation\":"), "{curve}");
    let one = json!({"validate_every": 1, "validation_samples": 1, "relation": 1.0});
    let error = lab.attempt("one", &warmup::KIND, &lab.stored(&["one"]), one, &Ear::default()).unwrap_err();
    assert_eq!(error.message, "`relation` compares images, but `validation_samples` is 1");
}

/// Networks, latents and decoders that are of other latents, or of other classes by the same numbers.
#[test]
fn what_a_network_was_not_trained_on_is_refused() {
    let lab = Lab::new();
    let sit = lab.run("sit", &train::KIND, &lab.stored(&["one"]), json!({"steps": 1}));
    let set = |name: &str, factor: f64, classes: [&str; 3]| {
        let meta = json!({"channels": 4, "height": 4, "width": 4, "scaling_factor": factor, "shift_factor": 0.1,
            "classes": classes});
        let labels: Vec<i64> = (0..ROWS as i64).map(|i| i % 3).collect();
        let std = (normal(1, &[4, 4, 4]).abs().unwrap() * 0.1).unwrap();
        let rows = [("mean", normal(2, &[4, 4, 4])), ("std", std), ("labels", Tensor::new(labels, &CPU).unwrap())];
        pack(&lab.path(name), "latents", &rows, &meta);
    };
    set("rescaled", 0.5, ["zero", "one", "two"]);
    set("renamed", 0.9, ["a", "b", "c"]);
    let score = |work: &str, latents: &str, label: &str| {
        let mut inputs = lab.stored(&["one"]);
        inputs.push(("sit", sit.clone()));
        inputs.iter_mut().filter(|(slot, _)| *slot == "latents").for_each(|(_, path)| *path = lab.path(latents));
        let inputs: Vec<(&str, &Path)> = inputs.iter().map(|(slot, path)| (*slot, path.as_path())).collect();
        let given = json!({"k": 3, "timesteps": [0.5], "label": label});
        lab.bench.run(work, &cknna::KIND, &inputs, given).map_err(|e| e.message)
    };
    let said = score("a", "rescaled", "null").unwrap_err();
    let want = "input `latents` does not fit the network: it was trained on latents scaled by 0.9, not 0.5";
    assert_eq!(said, want);
    score("b", "renamed", "null").unwrap();
    let said = score("c", "renamed", "own").unwrap_err();
    assert_eq!(said, "input `latents` has the classes a, b, c, but the network was trained on zero, one, two");
    // A training may go on with another set, and says what is odd.
    for (work, latents, odd) in [("d", "rescaled", "scaled by 0.9, not 0.5"), ("e", "renamed", "are taken by number")] {
        let mut inputs = lab.stored(&["one"]);
        inputs.iter_mut().filter(|(slot, _)| *slot == "latents").for_each(|(_, path)| *path = lab.path(latents));
        inputs.push(("init", sit.clone()));
        let ear = Ear::default();
        lab.attempt(work, &train::KIND, &inputs, json!({"steps": 0}), &ear).unwrap();
        let said = ear.text();
        assert!(said.contains("warning: `init` is of other") && said.contains(odd), "{said}");
    }
}

#[test]
fn inputs_of_other_images_are_refused_by_name() {
    let lab = Lab::new();
    let mut inputs = lab.online(&["one"]);
    lab.images("others", &[0; ROWS as usize]);
    inputs[1].1 = lab.path("others");
    let said = lab.refused(&warmup::KIND, &inputs);
    assert_eq!(said, "latents and input `images` describe images with different labels, or in a different order");
    lab.images("fewer", &[0, 1, 2]);
    inputs[1].1 = lab.path("fewer");
    let said = lab.refused(&train::KIND, &inputs);
    assert_eq!(said, "12 latents and 3 rows of input `images` do not describe the same images");

    let mut inputs = lab.stored(&["one", "two"]);
    pack(&lab.path("short"), "features", &[("tokens", normal(3, &[4, 8]).narrow(0, 0, 7).unwrap())], &json!({}));
    inputs[2].1 = lab.path("short");
    let said = lab.refused(&train::KIND, &inputs);
    assert_eq!(said, "12 latents and 7 rows of input `features.1` do not describe the same images");

    lab.encoder("coarse", json!({"patch_size": 8, "dim": 8, "depth": 1, "heads": 2, "steps": 0}));
    let text = |slot| format!("input `{slot}` gives 1 tokens per image, but the network has 4");
    assert_eq!(lab.refused(&train::KIND, &lab.stored(&["one", "coarse"])), text("features.1"));
    assert_eq!(lab.refused(&warmup::KIND, &lab.online(&["coarse", "one"])), text("encoder"));
}

#[test]
fn features_of_weight_0_are_not_read() {
    let lab = Lab::new();
    let stop = json!({"alignment": "stop-at", "alignment_steps": 2, "steps": 3});
    let whole = lab.run("whole", &train::KIND, &lab.stored(&["one"]), stop.clone());
    // What only the third step would read is spoilt: a NaN spreads even at weight 0.
    let sound = params::load(&lab.path("one-features/attempt-1/features/features-00000.safetensors"), &CPU).unwrap();
    let mut tokens = numbers(&sound["tokens"]);
    let row = tokens.len() / ROWS as usize;
    for id in batch_indices(0, 2, 0, 1, 4, ROWS as usize) {
        tokens[id as usize * row..(id as usize + 1) * row].fill(f32::NAN);
    }
    let tokens = Tensor::from_vec(tokens, sound["tokens"].shape(), &CPU).unwrap();
    pack(&lab.path("spoilt"), "features", &[("tokens", tokens)], &json!({}));
    let mut inputs = lab.stored(&["one"]);
    inputs[1].1 = lab.path("spoilt");
    assert_same_artifact(&whole, &lab.run("part", &train::KIND, &inputs, stop));
    assert!(lab.attempt("all", &train::KIND, &inputs, json!({}), &Ear::default()).is_err(), "the test spoils nothing");
}

/// A pipeline of the real kinds, with `rest` behind what both phases need.
fn load(rest: &str) -> Result<Pipeline, (String, Error)> {
    let data = r#"[stages.images]
kind = "images"
params = { source = "data" }
[stages.vae]
kind = "train-vae"
inputs = { images = "images" }
[stages.latents]
kind = "latents"
inputs = { images = "images", vae = "vae" }
[stages.one]
kind = "train-encoder"
inputs = { images = "images" }
[stages.two]
kind = "train-encoder"
inputs = { images = "images" }
[stages.features]
kind = "features"
inputs = { images = "images", encoder = "one" }
"#;
    let space = Space::new(&format!("{data}{rest}"));
    Pipeline::load(&space.path("p.toml"), KINDS, &Overrides::default()).map_err(|e| (space.message(&e), e))
}

#[test]
fn sources_of_features_are_checked_before_a_run() {
    let warmup = |rest: &str| load(&format!("[stages.warmup]\nkind = \"warmup\"\n{rest}\n"));
    let said = |rest: &str| {
        let (text, error) = warmup(rest).map(drop).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        text
    };
    for fine in [
        "inputs = { latents = \"latents\", features = \"features\" }",
        "inputs = { latents = \"latents\", images = \"images\", encoder = [\"one\", \"two\"] }\nparams = { features = \"online\" }",
    ] {
        warmup(fine).map(drop).unwrap();
    }
    let online = "params = { features = \"online\" }";
    insta::assert_snapshot!(
        "where_features_come_from",
        [
            said("inputs = { latents = \"latents\" }"),
            said("inputs = { latents = \"latents\", images = \"images\", encoder = \"one\" }"),
            said(&format!("inputs = {{ latents = \"latents\", images = \"images\" }}\n{online}")),
            said(&format!(
                "inputs = {{ latents = \"latents\", features = \"features\", images = \"images\", encoder = \"one\" }}\n{online}"
            )),
            said("inputs = { latents = \"latents\", features = \"online\" }"),
        ]
        .join("\n")
    );
    let train = |alignment: &str| {
        load(&format!(
            "[stages.train]\nkind = \"train\"\ninputs = {{ latents = \"latents\" }}\nparams = {{ alignment = \"{alignment}\" }}\n"
        ))
    };
    train("none").map(drop).unwrap();
    let (text, _) = train("constant").map(drop).unwrap_err();
    assert!(text.contains("input `features` is not connected") && text.contains("alignment = \"none\""), "{text}");
}

/// The whole way: lists and online features through planning, keys, workers and the store. Where
/// features come from does not show in what is made of them.
#[test]
fn a_pipeline_warms_up_on_two_encoders_stored_or_online() {
    const PIPELINE: &str = r#"extends = "small.toml"
[stages.second]
kind = "train-encoder"
inputs = { images = "images" }
params = { seed = 1, steps = 2, batch = 8, dim = 24, depth = 1, heads = 2 }
[stages.second-features]
kind = "features"
inputs = { images = "images", encoder = "second" }
[stages.warmup]
inputs = { features = ["features", "second-features"] }
params = { steps = 3 }
# Given the features of one encoder, it could not start from such weights.
[stages.train]
inputs = { features = false }
params = { alignment = "none" }
"#;
    const ONLINE: [&str; 6] = [
        "--set",
        "warmup.features=online",
        "--set",
        "warmup.inputs.features=false",
        "--set",
        "warmup.inputs.images=images",
    ];
    let experiment = Experiment::new();
    experiment.write("two.toml", PIPELINE);
    let made = |more: &[&str]| {
        let args = ["run", "two.toml", "warmup", "--json", "--threads", "2"];
        digests(&events(&experiment.erw(&[&args[..], more].concat()).expect(0)))["warmup"].clone()
    };
    let online = |encoders| [&ONLINE[..], &["--set", encoders]].concat();
    let stored = made(&[]);
    assert_eq!(stored, made(&online("warmup.inputs.encoder=[encoder, second]")));

    let verdict = |encoders| {
        let args = [&["plan", "two.toml", "warmup"], &online(encoders)[..]].concat();
        let plan = experiment.erw(&args).expect(0).stdout;
        plan.lines().find(|l| l.starts_with("warmup")).unwrap().to_string()
    };
    let cached = verdict("warmup.inputs.encoder=[\"encoder\", \"second\"]");
    assert!(cached.contains("cached"), "{cached}");
    let swapped = verdict("warmup.inputs.encoder=[second, encoder]");
    assert!(swapped.contains("input `encoder` changed"), "{swapped}");
    let fewer = verdict("warmup.inputs.encoder=encoder");
    assert!(fewer.contains("input `encoder.1` removed"), "{fewer}");
}
