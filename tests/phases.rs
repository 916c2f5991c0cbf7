//! The stages of the method work together: warmup hands over to training, training to sampling, each from the defaults
//! of its manifest; stopped stages go on where they were.

use candle_core::{DType, Device, Tensor};
use erw::error::{Error, ErrorKind};
use erw::ml::data::images::ImageSet;
use erw::ml::data::packed::PackedWriter;
use erw::ml::models::sit::SiTConfig;
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::rng::{self, Purpose};
use erw::ml::weights::{self, ParamSet, Tensors};
use erw::runner::attempt::{Attempt, Job};
use erw::runner::manifest::{Params, StageKind};
use erw::stages::{sample, train, warmup};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const CPU: Device = Device::Cpu;

/// A table of a manifest with some values replaced.
fn values(kind: &StageKind, table: &str, changes: &Value) -> Params {
    let manifest: Value = toml_edit::de::from_str(kind.manifest).unwrap();
    let mut params: Params = manifest[table].as_object().unwrap().clone().into_iter().collect();
    for value in params.values_mut() {
        if value.is_object() {
            *value = value.get("default").cloned().unwrap_or(Value::Null);
        }
    }
    for (name, value) in changes.as_object().unwrap() {
        if params.contains_key(name) {
            params.insert(name.clone(), value.clone());
        }
    }
    params
}

/// Collects what a stage says; raises the stop flag at the first checkpoint when told to.
#[derive(Clone, Default)]
struct Ear {
    heard: Arc<Mutex<Vec<u8>>>,
    stop_at_checkpoint: bool,
    stop: Arc<AtomicBool>,
}

impl Ear {
    fn text(&self) -> String {
        String::from_utf8(self.heard.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.stop_at_checkpoint && String::from_utf8_lossy(bytes).contains("checkpoint") {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.heard.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A folder with inputs, and stages run in it.
struct Bench {
    dir: TempDir,
}

const ROWS: u64 = 12;

impl Bench {
    /// Twelve latents 4x4 of three classes, features of four tokens, an autoencoder to 8x8 pixels.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let rows: Vec<u64> = (0..ROWS).collect();
        let normal = |tag, shape: &[usize]| rng::normal_rows(tag, Purpose::Probe, 0, &rows, shape, &CPU).unwrap();
        let labels = Tensor::from_iter((0..ROWS as i64).map(|i| i % 3), &CPU).unwrap();
        let std = (normal(1, &[4, 4, 4]).abs().unwrap() * 0.1).unwrap();
        let all =
            [("mean".to_string(), normal(2, &[4, 4, 4])), ("std".to_string(), std), ("labels".to_string(), labels)];
        let meta = json!({"channels": 4, "height": 4, "width": 4, "scaling_factor": 0.9, "shift_factor": 0.1,
            "classes": ["zero", "one", "two"]});
        pack(&dir.path().join("latents"), "latents", all.into(), &meta);
        let tokens = [("tokens".to_string(), normal(3, &[4, 10]).to_dtype(DType::F16).unwrap())];
        pack(&dir.path().join("features"), "features", tokens.into(), &json!({"tokens": 4, "dim": 10}));

        let config = VaeConfig::rgb(&[8, 8], 1, 4, 4, false);
        let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
        AutoencoderKl::new(&config, vb).unwrap();
        let vae = dir.path().join("vae");
        std::fs::create_dir_all(&vae).unwrap();
        weights::save(&params.tensors(), &vae.join("vae.safetensors")).unwrap();
        std::fs::write(vae.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn artifact(&self, work: &str, output: &str) -> PathBuf {
        self.path(work).join("out").join(output)
    }

    /// Runs a stage in folder `work`, after its check, with the inputs `slot -> path`.
    fn run(
        &self,
        kind: &StageKind,
        work: &str,
        changes: Value,
        inputs: &[(&str, PathBuf)],
        ear: &Ear,
    ) -> Result<(), Error> {
        let mut all = json!({"model": "custom", "hidden": 24, "blocks": 2, "heads": 2, "patch_size": 2,
            "projector_dim": 16, "encoder_depth": 1, "depth": 1, "batch": 4, "steps": 3, "ema_decay": 0.5});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let (params, operation) = (values(kind, "params", &all), values(kind, "operation", &all));
        (kind.check)(&params, &operation)?;
        let job = Job {
            stage: work.into(),
            kind: kind.name.into(),
            key: "key".into(),
            params,
            operation,
            inputs: inputs.iter().map(|(slot, path)| ((*slot).to_string(), path.clone())).collect(),
            outputs: BTreeMap::new(),
            work_dir: self.path(work),
            threads: 1,
            device: "cpu".into(),
            command: None,
            pipeline_dir: PathBuf::new(),
        };
        (kind.run)(&Attempt::new(job, Box::new(ear.clone()), ear.stop.clone()))
    }

    fn data(&self) -> Vec<(&'static str, PathBuf)> {
        vec![("latents", self.path("latents")), ("features", self.path("features"))]
    }

    fn warmed(&self, steps: u64) -> PathBuf {
        self.run(&warmup::KIND, "warmup", json!({"steps": steps}), &self.data(), &Ear::default()).unwrap();
        self.artifact("warmup", "warmed")
    }

    fn trained(&self) -> PathBuf {
        self.run(&train::KIND, "train", json!({}), &self.data(), &Ear::default()).unwrap();
        self.artifact("train", "sit")
    }
}

fn pack(dir: &Path, stem: &str, rows: Tensors, meta: &Value) {
    let mut writer = PackedWriter::create(dir, stem, 5).unwrap();
    writer.push(&rows).unwrap();
    writer.finish(meta).unwrap();
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn warmup_hands_its_blocks_to_training() {
    let bench = Bench::new();
    let warmed = bench.warmed(3);
    assert_eq!(files(&warmed), ["config.json", "curve.jsonl", "ema.safetensors", "model.safetensors", "training.json"]);
    let config: SiTConfig = serde_json::from_slice(&std::fs::read(warmed.join("config.json")).unwrap()).unwrap();
    assert_eq!((config.warmup_depth, config.depth, config.num_classes), (Some(1), 2, 3));
    assert_eq!(std::fs::read_to_string(warmed.join("curve.jsonl")).unwrap().lines().count(), 3);

    // No training steps: what comes out is what was handed over.
    let ear = Ear::default();
    let mut inputs = bench.data();
    inputs.push(("init", warmed.clone()));
    bench.run(&train::KIND, "train", json!({"steps": 0}), &inputs, &ear).unwrap();
    let before = weights::load(&warmed.join("model.safetensors"), &CPU).unwrap();
    let after = weights::load(&bench.artifact("train", "sit").join("model.safetensors"), &CPU).unwrap();
    for (name, t) in &before {
        assert_eq!(numbers(t), numbers(&after[name]), "{name}");
    }
    assert!(after.contains_key("blocks.1.mlp.fc1.weight") && !before.contains_key("blocks.1.mlp.fc1.weight"));
    assert!(before.contains_key("pos_embed") && before.contains_key("feat_rope.freqs_cos"));
    let said = ear.text();
    assert!(
        said.contains("hand-over") && said.contains("tensors loaded (blocks.0, projectors.0, t_embedder"),
        "{said}"
    );
}

#[test]
fn a_warmup_of_no_steps_changes_nothing() {
    let bench = Bench::new();
    let warmed = bench.warmed(0);
    let mut inputs = bench.data();
    inputs.push(("init", warmed));
    bench.run(&train::KIND, "with", json!({}), &inputs, &Ear::default()).unwrap();
    bench.run(&train::KIND, "without", json!({}), &bench.data(), &Ear::default()).unwrap();
    let bytes = |work| std::fs::read(bench.artifact(work, "sit").join("ema.safetensors")).unwrap();
    assert!(bytes("with") == bytes("without"), "a fresh warmup and no warmup start from the same values");
}

#[test]
fn a_hand_over_that_loads_nothing_or_does_not_fit_fails() {
    let bench = Bench::new();
    let foreign = bench.path("foreign");
    std::fs::create_dir_all(&foreign).unwrap();
    let other = Tensors::from([("encoder.weight".to_string(), Tensor::zeros(3, DType::F32, &CPU).unwrap())]);
    weights::save(&other, &foreign.join("model.safetensors")).unwrap();
    let mut inputs = bench.data();
    inputs.push(("init", foreign));
    let error = bench.run(&train::KIND, "a", json!({}), &inputs, &Ear::default()).unwrap_err();
    assert!(error.message.contains("no tensor of `init`"), "{error}");

    inputs.pop();
    inputs.push(("init", bench.warmed(0)));
    let error = bench.run(&train::KIND, "b", json!({"hidden": 32}), &inputs, &Ear::default()).unwrap_err();
    assert!(error.message.contains("another architecture"), "{error}");

    // No tensor tells of a rotary embedding.
    let error = bench.run(&train::KIND, "c", json!({"rope": false}), &inputs, &Ear::default()).unwrap_err();
    assert!(error.message.contains("`init` was trained with `rope = true`, this stage has `rope = false`"), "{error}");
}

#[test]
fn the_velocity_loss_is_the_key_metric_of_training() {
    let bench = Bench::new();
    let (mut inputs, ear) = (bench.data(), Ear::default());
    inputs.push(("init", bench.warmed(0)));
    bench.run(&train::KIND, "train", json!({}), &inputs, &ear).unwrap();
    let said = ear.text();
    let results: Vec<&str> = said.lines().filter(|l| l.contains("\"result\"")).collect();
    assert!(results[0].contains("velocity") && results.iter().any(|r| r.contains("loaded_tensors")), "{results:?}");
}

#[test]
fn a_model_that_diverged_gives_an_error_and_no_black_pictures() {
    let bench = Bench::new();
    bench.run(&train::KIND, "train", json!({}), &bench.data(), &Ear::default()).unwrap();
    let sit = bench.artifact("train", "sit");
    let mut tensors = weights::load(&sit.join("ema.safetensors"), &CPU).unwrap();
    let bias = tensors.get_mut("final_layer.linear.bias").unwrap();
    *bias = (bias.zeros_like().unwrap() + f64::NAN).unwrap();
    weights::save(&tensors, &sit.join("ema.safetensors")).unwrap();
    let inputs = [("sit", sit), ("vae", bench.path("vae"))];
    let changes = json!({"count": 2, "steps": 2});
    let error = bench.run(&sample::KIND, "sample", changes, &inputs, &Ear::default()).unwrap_err();
    assert!(error.message.contains("not finite for samples 0 to 1"), "{error}");
}

#[test]
fn an_alignment_of_weight_0_is_none() {
    let bench = Bench::new();
    bench.run(&train::KIND, "zero", json!({"alignment_weight": 0.0}), &bench.data(), &Ear::default()).unwrap();
    bench.run(&train::KIND, "none", json!({"alignment": "none"}), &bench.data(), &Ear::default()).unwrap();
    let bytes = |work| std::fs::read(bench.artifact(work, "sit").join("ema.safetensors")).unwrap();
    assert!(bytes("zero") == bytes("none"));
}

#[test]
fn features_of_images_with_other_labels_are_refused() {
    let bench = Bench::new();
    let tokens = Tensor::zeros((ROWS as usize, 4, 10), DType::F32, &CPU).unwrap();
    let labels: Vec<u8> = (0..ROWS as i64).flat_map(|i| (i / 4).to_le_bytes()).collect();
    let meta = json!({"tokens": 4, "dim": 10, "labels": blake3::hash(&labels).to_hex().to_string()});
    pack(&bench.path("others"), "features", [("tokens".to_string(), tokens)].into(), &meta);
    let inputs = [("latents", bench.path("latents")), ("features", bench.path("others"))];
    let error = bench.run(&train::KIND, "a", json!({}), &inputs, &Ear::default()).unwrap_err();
    assert!(error.message.contains("in another order"), "{error}");
}

#[test]
fn bad_parameters_are_found_before_anything_runs() {
    let bench = Bench::new();
    let error = |kind: &StageKind, changes: Value| {
        let error = bench.run(kind, "x", changes, &bench.data(), &Ear::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage, "{error}");
        error.to_string()
    };
    assert!(error(&train::KIND, json!({"heads": null})).contains("needs `heads`"));
    assert!(error(&train::KIND, json!({"model": "SiT-S/2"})).contains("`hidden` is given"));
    assert!(error(&train::KIND, json!({"heads": 5})).contains("not a multiple of heads"));
    assert!(error(&train::KIND, json!({"encoder_depth": 3})).contains("encoder_depth 3"));
    assert!(error(&train::KIND, json!({"batch": 4, "accumulate": 3})).contains("does not divide"));
    assert!(error(&warmup::KIND, json!({"depth": 3})).contains("encoder_depth 3"));
    assert!(error(&sample::KIND, json!({"guidance_low": 0.9, "guidance_high": 0.5})).contains("above"));
    assert!(!bench.path("x").exists());
}

#[test]
fn training_without_alignment_needs_no_features_and_with_it_does() {
    let bench = Bench::new();
    let latents = [("latents", bench.path("latents"))];
    let error = bench.run(&train::KIND, "a", json!({}), &latents, &Ear::default()).unwrap_err();
    assert!(error.message.contains("needs input `features`"), "{error}");
    bench.run(&train::KIND, "b", json!({"alignment": "none"}), &latents, &Ear::default()).unwrap();
    let tensors = weights::load(&bench.artifact("b", "sit").join("ema.safetensors"), &CPU).unwrap();
    assert!(!tensors.keys().any(|name| name.starts_with("projectors")));
    // HASTE: the projector rests after the stop.
    let stop = json!({"alignment": "stop-at", "alignment_steps": 2});
    bench.run(&train::KIND, "c", stop, &bench.data(), &Ear::default()).unwrap();
}

#[test]
fn stopped_training_goes_on() {
    let bench = Bench::new();
    let changes = json!({"checkpoint_every": 2, "steps": 5, "accumulate": 2});
    bench.run(&train::KIND, "whole", changes.clone(), &bench.data(), &Ear::default()).unwrap();
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    let error = bench.run(&train::KIND, "cut", changes.clone(), &bench.data(), &ear).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Suspended);
    bench.run(&train::KIND, "cut", changes, &bench.data(), &Ear::default()).unwrap();
    for file in ["model.safetensors", "ema.safetensors", "curve.jsonl"] {
        let bytes = |work| std::fs::read(bench.artifact(work, "sit").join(file)).unwrap();
        assert!(bytes("whole") == bytes("cut"), "{file}");
    }
}

#[test]
fn sampling_resumes_and_does_not_depend_on_the_batch() {
    let bench = Bench::new();
    let inputs = [("sit", bench.trained()), ("vae", bench.path("vae"))];
    let changes = |batch: u64| json!({"count": 7, "steps": 4, "batch": batch, "cfg_scale": 1.5, "labels": "balanced"});
    bench.run(&sample::KIND, "whole", changes(7), &inputs, &Ear::default()).unwrap();
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    let error = bench.run(&sample::KIND, "cut", changes(2), &inputs, &ear).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Suspended);
    // The kill tears the next batch.
    let store = bench.path("cut").join("checkpoints/images.u8");
    let mut torn = std::fs::read(&store).unwrap();
    assert_eq!(torn.len(), 2 * 8 * 8 * 3);
    torn.extend([7; 100]);
    std::fs::write(&store, torn).unwrap();
    let ear = Ear::default();
    bench.run(&sample::KIND, "cut", changes(3), &inputs, &ear).unwrap();
    assert!(ear.text().contains("\"resumed\"") || ear.text().contains("resumed"), "{}", ear.text());

    let (whole, cut) = (bench.artifact("whole", "samples"), bench.artifact("cut", "samples"));
    assert_eq!(files(&whole), ["grid.png", "meta.json", "png", "samples.npz"]);
    assert_eq!(files(&whole.join("png")).len(), 7);
    let pixels = |dir: &Path| {
        let set = ImageSet::open(dir).unwrap();
        assert_eq!((set.height(), set.width(), set.labels()), (8, 8, vec![0, 1, 2, 0, 1, 2, 0]));
        assert_eq!(set.classes(), ["zero", "one", "two"]);
        set.batch(&(0..7).collect::<Vec<_>>(), &CPU).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap()
    };
    assert_eq!(pixels(&whole), pixels(&cut));
}

#[test]
fn every_sampler_makes_pictures_and_a_wrong_path_is_refused() {
    let bench = Bench::new();
    let inputs = [("sit", bench.trained()), ("vae", bench.path("vae"))];
    for sampler in ["ode-euler", "ode-heun", "sde"] {
        let changes = json!({"count": 2, "steps": 2, "sampler": sampler, "weights": "model"});
        bench.run(&sample::KIND, sampler, changes, &inputs, &Ear::default()).unwrap();
        let meta = std::fs::read_to_string(bench.artifact(sampler, "samples").join("meta.json")).unwrap();
        assert!(meta.contains(sampler), "{meta}");
    }
    let error = bench.run(&sample::KIND, "x", json!({"count": 1, "path": "cosine"}), &inputs, &Ear::default());
    assert!(error.unwrap_err().message.contains("trained on Linear"));
}
