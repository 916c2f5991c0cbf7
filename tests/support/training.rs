//! A warmup and a training small enough to run many times, from latents and features that others
//! made, and what came of them.

use super::arrays::{moments_name, normals, npy_f32};
use super::deadline::Deadline;
use super::experiment::{ended, events, is};
use super::space::Space;
use candle_core::{Device, Tensor};
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seventeen samples, so that batches of eight cross epochs at odd places.
const ROWS: usize = 17;

const PIPELINE: &str = r#"
name = "exact"
[params]
model = "custom"
hidden = 24
blocks = 2
heads = 2
patch_size = 2
projector_dim = 16
batch = 8
ema_decay = 0.9
[stages.latents]
kind = "import-latents"
params = { source = "vae-sd" }
[stages.features]
kind = "import-features"
params = { source = "shards" }
[stages.warmup]
kind = "warmup"
inputs = { latents = "latents", features = "features" }
params = { steps = 5, depth = 1 }
operation = { checkpoint_every = 2, log_every = 1 }
[stages.train]
kind = "train"
inputs = { latents = "latents", features = "features", init = "warmup" }
params = { steps = 100, encoder_depth = 1, accumulate = 2, lr = 1e-3, alignment_steps = 9 }
operation = { checkpoint_every = 3, log_every = 1 }
"#;

/// A space with the pipeline, and `more` at its end, and its data.
pub fn space(more: &str) -> Space {
    let space = Space::new(&format!("{PIPELINE}{more}"));
    let shape = [8, 8, 8];
    let (moments, mut list) = (normals(ROWS as u64, 1, &shape), vec![]);
    for i in 0..ROWS {
        let mut values = moments.get(i).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[4 * 64..].iter_mut().for_each(|std| *std = 0.1 * std.abs());
        let path = space.path("vae-sd").join(moments_name(i));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, npy_f32(&shape, &values)).unwrap();
        list.push(json!([moments_name(i), i % 3]));
    }
    space.write("vae-sd/dataset.json", &json!({ "labels": list }).to_string());
    let labels = Tensor::from_iter((0..ROWS as i64).map(|i| i % 3), &Device::Cpu).unwrap();
    let shard = Tensors::from([
        ("latents".into(), normals(ROWS as u64, 2, &[4, 8, 8])),
        ("labels".into(), labels),
        ("encoder_0_features".into(), normals(ROWS as u64, 3, &[16, 10])),
    ]);
    std::fs::create_dir_all(space.path("shards")).unwrap();
    params::save(&shard, &space.path("shards/latents_shard00_of_01.safetensors")).unwrap();
    space
}

/// A run of this space with events, in the cache of this name.
pub fn command(space: &Space, cache: &str, more: &[&str]) -> Command {
    let mut command = space.command(&["run", "p.toml", "--json", "--cache-dir", cache]);
    command.args(more);
    command
}

/// What a training left: every file of the artifact and its metrics file, by name.
pub type Made = BTreeMap<String, Vec<u8>>;

/// Runs to the end and returns what `stage` made.
#[track_caller]
pub fn made(space: &Space, cache: &str, more: &[&str], stage: &str) -> Made {
    made_by(command(space, cache, more), space, cache, stage)
}

/// What `stage` made in this run, which has events.
#[track_caller]
pub fn made_by(mut command: Command, space: &Space, cache: &str, stage: &str) -> Made {
    let said = super::space::Said::from(command.finish()).expect(0);
    let events = events(&said);
    let end = ended(&events).find(|e| is(e, "ended", stage)).unwrap();
    let mut made = files(Path::new(end["outputs"][0]["path"].as_str().unwrap()));
    let metrics = logs(space, cache, end).join("metrics.jsonl");
    made.insert("metrics.jsonl".into(), std::fs::read(metrics).unwrap());
    made
}

/// Where the logs of a stage that ended lie.
pub fn logs(space: &Space, cache: &str, end: &Value) -> PathBuf {
    space.path(cache).join("v1/logs").join(end["key"].as_str().unwrap())
}

fn files(dir: &Path) -> Made {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(p).unwrap())).collect()
}

/// Names of the files in which two trainings differ.
pub fn differences<'a>(a: &'a Made, b: &'a Made) -> Vec<&'a str> {
    let names = a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name));
    names.map(String::as_str).collect()
}
