//! A trained SiT handed over to diffusers: the folder is complete and says where it comes from, and
//! real diffusers makes of it what erw made.

use crate::support::experiment::Experiment;
use crate::support::python;
use crate::support::space::{Space, file_names, redact};
use crate::support::training;
use candle_core::{DType, Device, Tensor};
use erw::ml::models::sit::{SiT, SiTConfig};
use erw::ml::nn::params::{self, Frozen, Tensors};
use erw::ml::rng::{Purpose, normal_rows};
use serde_json::Value;
use std::path::Path;

/// `train` has every option of the network, `plain` only QK-norm, and the other path.
const HANDOVER: &str = r#"
extends = "small.toml"
name = "handed"

[stages.warmup]
params = { steps = 20, rope = true, qk_norm = true, mlp = "swiglu", norm = "rms" }

[stages.train]
params = { steps = 60, rope = true, qk_norm = true, mlp = "swiglu", norm = "rms", lr = 1e-2, ema_decay = 0.9, snapshots = [30] }

[stages.plain]
kind = "train"
inputs = { latents = "latents" }

[stages.plain.params]
model = "custom"
hidden = 16
blocks = 2
heads = 4
patch_size = 4
alignment = "none"
qk_norm = true
path = "cosine"
class_dropout = 0.2
steps = 60
batch = 8
lr = 1e-2
ema_decay = 0.9

[stages.sample]
params = { labels = "random" }

[stages.sample-early]
kind = "sample"
inputs = { sit = "train", vae = "vae" }
params = { sampler = "ode-euler", steps = 3, count = 20, weights = "ema@30" }

[stages.fd-early]
kind = "fid"
inputs = { samples = "sample-early", reference = "held-out", network = "classifier" }

[stages.sample-plain]
kind = "sample"
inputs = { sit = "plain", vae = "vae" }
params = { sampler = "sde", steps = 5, count = 6, cfg_scale = 2.0, guidance_high = 0.9, seed = 3, labels = "random" }
"#;

const IMPORTED: &str = r#"
extends = "small.toml"
name = "a_b <i>"

[stages.given]
kind = "weights"
params = { as = "sit", source = "train-artifact/ema.safetensors", config = "train-artifact/config.json" }

[stages.sample-given]
kind = "sample"
inputs = { sit = "given", vae = "vae" }
params = { count = 2, steps = 2 }
"#;

const STAGES: [&str; 6] = ["fd", "accuracy", "cknna", "sample-sde", "fd-early", "sample-plain"];

fn erw(space: &Space, args: &[&str]) -> String {
    space.erw(args).expect(0).stdout
}

/// Points, times, classes and erw's velocities there, as a file.
fn velocities(sit: &Path, to: &Path) {
    let config: SiTConfig = serde_json::from_slice(&std::fs::read(sit.join("config.json")).unwrap()).unwrap();
    let weights = params::load(&sit.join("ema.safetensors"), &Device::Cpu).unwrap();
    let network = SiT::new(&config, Frozen::new(weights).builder(DType::F32, &Device::Cpu)).unwrap();
    let shape = [config.in_channels, config.input_size, config.input_size];
    let x = normal_rows(0, Purpose::Probe, 0, &[0, 1, 2, 3], &shape, &Device::Cpu).unwrap();
    let t = Tensor::new(&[0f32, 0.13, 0.77, 1.0], &Device::Cpu).unwrap();
    let y = Tensor::new(&[0, 3, 7, config.null_class()], &Device::Cpu).unwrap();
    let v = network.velocity(&x, &t, &y).unwrap();
    let y = y.to_dtype(DType::I64).unwrap();
    let file = Tensors::from([("x".into(), x), ("t".into(), t), ("y".into(), y), ("v".into(), v)]);
    params::save(&file, to).unwrap();
}

#[test]
fn diffusers_makes_of_an_export_what_erw_made() {
    let space = Experiment::new();
    space.write("p.toml", HANDOVER);
    space.run(&STAGES).expect(0);
    assert_eq!(
        erw(&space, &["export", "p.toml", "train", "out", "--as", "diffusers"]),
        "out: weights `ema` of `train` with the autoencoder of `vae`, for diffusers\n"
    );
    assert_eq!(
        file_names(&space.path("out")),
        ["README.md", "erw_pipeline.py", "model_index.json", "pipeline", "transformer", "vae"]
    );
    assert_eq!(file_names(&space.path("out/pipeline")), ["digits.toml", "p.lock", "p.toml", "small.toml"]);
    assert_eq!(space.read("out/pipeline/p.toml"), HANDOVER);
    insta::assert_snapshot!("model_index", space.read("out/model_index.json"));
    // The machine decides what it is called, and which block is the best.
    let card = space.read("out/README.md").replace("- made ", "on ");
    let card: Vec<&str> = card.lines().filter(|line| !line.starts_with("| block |")).collect();
    insta::assert_snapshot!("model_card", redact(&card.join("\n")));
    let other = ["export", "p.toml", "plain", "plain", "--as", "diffusers", "--set", "train.seed=5"];
    erw(&space, &other);
    assert!(space.read("plain/README.md").contains("(pipeline/p.toml), with `--set train.seed=5`;"));

    // Weights from elsewhere: nothing is said about images that nobody knows.
    erw(&space, &["export", "p.toml", "train", "train-artifact"]);
    space.write("imported.toml", IMPORTED);
    erw(&space, &["run", "imported.toml", "given", "vae", "--plain"]);
    erw(&space, &["export", "imported.toml", "given", "imported", "--as", "diffusers"]);
    let card = space.read("imported/README.md");
    assert!(card.contains("\nStage `given` of kind `weights`. The autoencoder is that of `vae`."), "{card}");
    assert!(card.contains("# a\\_b &lt;i>: given\n") && !card.contains("model-index"), "{card}");

    let Some(python) = python::python() else { return };
    for (stage, export, samples) in
        [("train", "out", &["sample", "sample-sde"][..]), ("plain", "plain", &["sample-plain"])]
    {
        let sit = format!("{stage}-artifact");
        erw(&space, &["export", "p.toml", stage, &sit, "--force"]);
        velocities(&space.path(&sit), &space.path("velocities.safetensors"));
        samples.iter().for_each(|name| drop(erw(&space, &["export", "p.toml", name, name])));
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/check_diffusers.py");
        let said = python::run(&space, &python, &program, &[&[export, "velocities.safetensors"], samples].concat());
        let said: Value = serde_json::from_str(said.expect(0).stdout.lines().last().unwrap()).unwrap();
        checked(&space, stage, samples, &said);
    }
}

fn checked(space: &Space, stage: &str, samples: &[&str], said: &Value) {
    let number = |name: &str| said[name].as_f64().unwrap();
    assert!(number("velocity") <= 1e-5 && number("scale") > 0.1, "{said}");
    for name in samples {
        assert!(said["pictures"][name].as_u64().unwrap() <= 1, "{name}: {said}");
    }
    assert!(said["by_default"][samples[0]].as_u64().unwrap() <= 1, "{said}");
    assert!(number("spread") > 10.0, "pictures are not of one colour: {said}");
    assert!(said["repeats"] == true && said["half"] == true, "{said}");
    let refused = ["no class 'no such class'", "class 99 is not", "no sampler 'x'", "give class_labels"];
    for (text, begins) in said["defaults"].as_array().unwrap().iter().zip(refused) {
        assert!(text.as_str().unwrap().starts_with(begins), "{text}");
    }
    assert_eq!(said["library"], "diffusers");
    let shown: Value = serde_json::from_str(&erw(space, &["show", &format!("p.toml:{stage}"), "--json"])).unwrap();
    assert_eq!(said["transformer"]["format"], "pt");
    assert_eq!(said["transformer"]["erw.digest"], shown["digest"]);
    assert_eq!(said["transformer"]["erw.key"], shown["made_by"]["key"]);

    // The card has what was recorded of these weights, and nothing else.
    let card = said["card"].as_array().unwrap();
    let recorded = erw(space, &["metrics", "p.toml", "fd", "accuracy", "cknna", "--format", "json"]);
    let recorded: Vec<Value> = serde_json::from_str(&recorded).unwrap();
    // The number of the best block is no metric.
    let recorded: Vec<Value> = recorded.into_iter().filter(|row| row["metric"] != "block").collect();
    let count = if stage == "train" { recorded.len() } else { 0 };
    assert_eq!(card.len(), count, "{said}");
    for row in recorded.iter().take(count) {
        let found = card.iter().any(|c| c[0] == row["metric"] && c[1] == row["value"] && c[3] == "digits");
        assert!(found, "{row} in {said}");
    }
}

#[test]
fn what_cannot_be_handed_over_is_refused() {
    let space = training::space("");
    let export = |args: &[&str]| space.erw(&[&["export", "p.toml"], args].concat()).expect(2).stderr;
    let told = |stderr: String, begins: &str| assert!(stderr.starts_with(begins), "{stderr}");
    told(
        export(&["warmup", "out", "--as", "diffusers"]),
        "error: stage `warmup` is no trained SiT\nhint: a SiT is made by `train`\n",
    );
    told(
        export(&["train", "out", "--as", "diffusers"]),
        "error: no autoencoder is known for stage `train`\ncause: its latents were not encoded in this pipeline, and \
         no stage samples from it\nhint: add a stage of kind `sample`",
    );
    told(export(&["train", "out", "--as", "diffusers", "--weights", "x"]), "error: `--weights` must be `ema`");
    told(export(&["train", "out", "--as", "onnx"]), "error: invalid value 'onnx'");
    assert_ne!(space.erw(&["export", "p.toml", "train", "out", "--weights", "ema"]).status, 0);
    assert_ne!(space.erw(&["export", "p.toml", "train", "out", "--as", "diffusers", "--link"]).status, 0);

    let space = Experiment::new();
    let said = space.erw(&["export", "small.toml", "train", "out", "--as", "diffusers"]).expect(2).stderr;
    told(said, "error: stage `train` is not up to date\ncause: ");
    assert!(!space.path("out").exists());
}

/// Metadata is added to the copy: the stored artifact, whose bytes decide its digest, stays as it is.
#[test]
fn exported_weights_say_where_they_come_from() {
    let space = training::space("");
    space.run(&["warmup"]).expect(0);
    erw(&space, &["export", "p.toml", "warmup", "out"]);
    let shown: Value = serde_json::from_str(&erw(&space, &["show", "p.toml:warmup", "--json"])).unwrap();
    let stored = Path::new(shown["path"].as_str().unwrap());
    let header = |file: &Path| {
        let bytes = std::fs::read(file).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        (serde_json::from_slice::<Value>(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
    };
    for name in ["ema.safetensors", "model.safetensors"] {
        let (mut copy, copied) = header(&space.path("out").join(name));
        let (cached, kept) = header(&stored.join(name));
        let told = copy.as_object_mut().unwrap().remove("__metadata__").unwrap();
        assert_eq!(told["format"], "pt");
        assert_eq!((&told["erw.key"], &told["erw.digest"]), (&shown["made_by"]["key"], &shown["digest"]));
        assert!(copy == cached && copied == kept && cached.get("__metadata__").is_none(), "{name}");
    }
    // What the folder is still good for.
    erw(&space, &["weights", "export", "out", "--out", "sit.pt"]);
    space.erw(&["cache", "verify"]).expect(0);
    erw(&space, &["export", "p.toml", "warmup", "linked", "--link"]);
    assert_eq!(
        std::fs::read(space.path("linked/ema.safetensors")).unwrap(),
        std::fs::read(stored.join("ema.safetensors")).unwrap()
    );
}

/// The Python of the book, with the real packages.
#[test]
fn programs_read_what_a_run_left() {
    let Some(python) = python::python() else { return };
    let space = Experiment::new();
    // The page is about `digits.toml`.
    let small = space.read("small.toml").replace("\"digits.toml\"", "\"full.toml\"");
    std::fs::rename(space.path("digits.toml"), space.path("full.toml")).unwrap();
    space.write("digits.toml", &small);
    erw(&space, &["run", "digits.toml", "fd", "--plain", "--set", "train.tensorboard=curves"]);
    erw(&space, &["export", "digits.toml", "train", "digits", "--as", "diffusers"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (program, page) = (root.join("tests/tools/check_recipes.py"), root.join("docs/handing-over.md"));
    python::run(&space, &python, &program, &[page.to_str().unwrap()]).expect(0);
}
