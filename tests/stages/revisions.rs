//! A kind's revision must be raised when its code computes something else, or the caches of all
//! users go on giving out what the old code made. So every kind runs once, tiny, and its bytes are
//! compared with those on record.
//!
//! `tests/golden/revisions.json` holds the revisions and, for each class of CPU on which they were
//! recorded, key and digests of every stage of `tests/golden/every-kind.toml`. Kernels are chosen
//! by the CPU's features and block sizes by its caches, so digests are compared within a class
//! only.

use crate::support::experiment::{Experiment, ended};
use crate::support::skip;
use erw::ml::models::vit::Vit;
use erw::ml::nn::params;
use erw::ml::nn::params::ParamSet;
use erw::runner::host::class;
use erw::runner::kind::manifest::Manifest;
use erw::stages::KINDS;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const PIPELINE: &str = include_str!("../golden/every-kind.toml");
const BLESS: &str = "ERW_BLESS=1 cargo test revisions";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Golden {
    /// By kind.
    revisions: BTreeMap<String, u32>,
    /// By class of CPU, by stage.
    recorded: BTreeMap<String, BTreeMap<String, Made>>,
}

/// What a stage made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Made {
    kind: String,
    /// Same key, other outputs: the code computes something else.
    key: String,
    outputs: BTreeMap<String, String>,
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/revisions.json")
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read(file()).expect("tests/golden/revisions.json")).expect("revisions and digests")
}

fn blessing() -> bool {
    std::env::var_os("ERW_BLESS").is_some_and(|v| v == "1")
}

fn current() -> BTreeMap<String, u32> {
    let revision = |k: &erw::runner::kind::StageKind| Manifest::parse(k.name, k.manifest).expect("sound").revision;
    KINDS.iter().map(|k| (k.name.to_string(), revision(k))).collect()
}

/// Runs every kind once.
fn observe() -> BTreeMap<String, Made> {
    let x = Experiment::new();
    x.write("every-kind.toml", PIPELINE);
    let vit = json!({
        "image_size": 8, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "mlp_dim": 16, "class_token": true,
        "layer_scale": true, "exact_gelu": true, "final_norm": true, "eps": 1e-6,
    });
    let (params, vb) = ParamSet::init(3, candle_core::DType::F32, &candle_core::Device::Cpu);
    Vit::new(&serde_json::from_value(vit.clone()).expect("a configuration"), vb).expect("a network");
    params::save(&params.tensors(), &x.path("released.safetensors")).expect("written");
    x.write("released.json", &json!({"vit": vit, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}).to_string());
    let zeros =
        |shape: &[usize], dtype| candle_core::Tensor::zeros(shape, dtype, &candle_core::Device::Cpu).expect("zeros");
    let shard = params::Tensors::from([
        ("latents".into(), zeros(&[3, 4, 2, 2], candle_core::DType::F32)),
        ("labels".into(), zeros(&[3], candle_core::DType::I64)),
        ("encoder_0_features".into(), zeros(&[3, 1, 5], candle_core::DType::F32)),
    ]);
    std::fs::create_dir(x.path("ready")).expect("a folder");
    params::save(&shard, &x.path("ready/latents_shard00_of_01.safetensors")).expect("written");

    let text = |v: &serde_json::Value| v.as_str().expect("text").to_string();
    let made = |end: &serde_json::Value| {
        let outputs = end["outputs"].as_array().expect("outputs").iter();
        let outputs = outputs.map(|o| (text(&o["name"]), text(&o["digest"]))).collect();
        (text(&end["stage"]), Made { kind: text(&end["kind"]), key: text(&end["key"]), outputs })
    };
    ended(&x.events_of("cache", "every-kind.toml")).map(made).collect()
}

fn bless(now: &BTreeMap<String, Made>) {
    let old = std::fs::read(file()).ok().and_then(|bytes| serde_json::from_slice::<Golden>(&bytes).ok());
    let mut golden = old.unwrap_or_default();
    // What other classes recorded under other revisions is void.
    if golden.revisions != current() {
        golden.recorded.clear();
    }
    golden.revisions = current();
    golden.recorded.insert(class().into(), now.clone());
    let text = serde_json::to_string_pretty(&golden).expect("JSON") + "\n";
    std::fs::write(file(), text).expect("tests/golden/revisions.json");
}

#[test]
fn revisions_on_record_are_current() {
    if !blessing() {
        assert_eq!(golden().revisions, current(), "a kind or a revision is new; record it with `{BLESS}`");
    }
}

#[test]
fn a_changed_result_needs_a_raised_revision() {
    let now = observe();
    let ran: BTreeSet<&str> = now.values().map(|m| m.kind.as_str()).collect();
    let all: BTreeSet<&str> = KINDS.iter().map(|k| k.name).collect();
    assert_eq!(ran, all, "tests/golden/every-kind.toml runs every kind");
    if blessing() {
        return bless(&now);
    }
    let (golden, class) = (golden(), class());
    let Some(before) = golden.recorded.get(class) else {
        let known: Vec<&String> = golden.recorded.keys().collect();
        return skip(&format!("no digests recorded on `{class}`, only on {known:?}"));
    };
    let recorded = |stage: &str, made: &Made| before.get(stage).is_some_and(|b| b.key == made.key);
    let changed: Vec<String> = now
        .iter()
        .filter(|(stage, made)| recorded(stage, made) && before[*stage] != **made)
        .map(|(stage, made)| format!("`{}` (stage {stage}): raise `revision` in stages/{}.toml", made.kind, made.kind))
        .collect();
    assert!(
        changed.is_empty(),
        "the same key gives other bytes, so users' caches would keep what the old code made:\n  {}\n\
         then record it with `{BLESS}`; without raising, if the old bytes are as good as the new ones",
        changed.join("\n  ")
    );
    let keys = |made: &BTreeMap<String, Made>| -> Vec<(String, String)> {
        made.iter().map(|(stage, m)| (stage.clone(), m.key.clone())).collect()
    };
    assert_eq!(keys(&now), keys(before), "the pipeline, a default or a revision changed; record it with `{BLESS}`");
}
