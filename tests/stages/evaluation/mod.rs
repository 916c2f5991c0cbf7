//! Evaluation of samples against a reference: one pass gives every metric, from images and from
//! statistics alike; no result depends on batches, interruptions or the form of the images.

mod image_sources;
mod killed;
mod published_statistics;
mod refusals;

use crate::stages::two_phase_training::Lab;
use crate::support::bench::{Bench, Ear};
use crate::support::golden::hashed;
use candle_core::{DType, Device};
use erw::error::ErrorKind;
use erw::ml::data::images::ImageSet;
use erw::ml::formats::Npz;
use erw::ml::metrics::gaussian::{Gaussian, POOLED};
use erw::ml::models::classifier::{Classifier, ClassifierConfig};
use erw::ml::models::feature_network::open::open_feature_network;
use erw::ml::nn::params;
use erw::ml::nn::params::ParamSet;
use erw::ml::viz::picture::write_npz;
use erw::stages;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;
/// Side of the images.
const SIDE: usize = 8;

/// A classifier of ten features, with weights by `seed`.
fn network(bench: &Bench, name: &str, seed: u64) -> PathBuf {
    let config = ClassifierConfig {
        arch: Classifier::ARCH.into(),
        channels: vec![4, 6],
        features: 10,
        norm_num_groups: 2,
        classes: vec!["a".into(), "b".into()],
        height: SIDE,
        width: SIDE,
    };
    let (params, vb) = ParamSet::init(seed, DType::F32, &CPU);
    Classifier::new(&config, vb).unwrap();
    let dir = bench.path(name);
    fs::create_dir_all(&dir).unwrap();
    params::save(&params.tensors(), &dir.join("classifier.safetensors")).unwrap();
    fs::write(dir.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    dir
}

/// Bytes `[count, side, side, 3]` that depend on the name.
fn pixels(name: &str, count: usize, side: usize) -> Vec<u8> {
    hashed(name, count * side * side * 3).iter().map(|u| (u * 100.0 + 128.0) as u8).collect()
}

/// A `samples` artifact.
fn samples(bench: &Bench, name: &str, count: usize) -> PathBuf {
    let dir = bench.path(name);
    fs::create_dir_all(&dir).unwrap();
    write_npz(&dir.join("samples.npz"), &pixels(name, count, SIDE), SIDE, SIDE, &vec![0; count]).unwrap();
    dir
}

fn metrics(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("metrics.json")).unwrap()).unwrap()
}

/// Everything that features of a classifier allow, with subsets that fit few images.
fn everything() -> Value {
    json!({"metrics": ["fid", "precision", "recall", "density", "coverage", "kid"], "kid_subsets": 4, "kid_subset_size": 20})
}

fn with(mut base: Value, more: Value) -> Value {
    base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    base
}

#[test]
fn statistics_give_the_metrics_of_their_images() {
    let bench = Bench::new();
    let net = network(&bench, "net", 1);
    let sides = [("samples", samples(&bench, "a", 40)), ("reference", samples(&bench, "b", 50))];
    let stats: Vec<PathBuf> = sides
        .iter()
        .map(|(name, images)| {
            let inputs = [("images", images.as_path()), ("network", &net)];
            bench.run(&format!("{name}-stats"), &stages::evaluation::stats::KIND, &inputs, json!({})).unwrap()
        })
        .collect();
    let fid = |name: &str, samples: &Path, reference: &Path, net: Option<&Path>| {
        let mut inputs = vec![("samples", samples), ("reference", reference)];
        inputs.extend(net.map(|net| ("network", net)));
        metrics(&bench.run(name, &stages::evaluation::fid::KIND, &inputs, everything()).unwrap())
    };
    let (a, b) = (&sides[0].1, &sides[1].1);
    let of_images = fid("images", a, b, Some(&net));
    assert_eq!(of_images, fid("half", a, &stats[1], Some(&net)));
    assert_eq!(of_images, fid("both", &stats[0], &stats[1], Some(&net)));
    assert_eq!(of_images, fid("alone", &stats[0], &stats[1], None));

    let names: Vec<&String> = of_images["values"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["fd", "precision", "recall", "density", "coverage", "kd", "kd_std"]);
    assert_eq!((&of_images["metric"], &of_images["value"]), (&json!("fd"), &of_images["values"]["fd"]));
    assert_eq!((&of_images["n_samples"], &of_images["n_reference"]), (&json!(40), &json!(50)));
    assert_eq!(of_images["settings"]["kd"], json!({"subsets": 4, "subset_size": 20, "seed": 2020}));
    let few = |(metric, what): (&str, &str)| {
        format!("{metric} of 40 samples, fewer than 100: {what} moves by a hundredth and more with each of them")
    };
    let shares = [("precision", "a share"), ("recall", "a share"), ("density", "a density"), ("coverage", "a share")];
    assert_eq!(of_images["warnings"], json!(shares.map(few)));
    for name in names {
        assert_eq!(bench.result("images", name), of_images["values"][name].as_f64(), "{name}");
    }
}

/// Of either side: a number of some of the images is not that of all.
#[test]
fn metrics_of_a_subset_of_features_have_a_warning() {
    let bench = Bench::new();
    let net = network(&bench, "net", 1);
    let stats = |name: &str, images: PathBuf| {
        let inputs = [("images", images.as_path()), ("network", &net)];
        bench.run(&format!("{name}-stats"), &stages::evaluation::stats::KIND, &inputs, json!({"features": 25})).unwrap()
    };
    let (a, b) = (stats("a", samples(&bench, "a", 40)), stats("b", samples(&bench, "b", 50)));
    let inputs = [("samples", a.as_path()), ("reference", &b)];
    let params = json!({"metrics": ["precision", "kid"], "kid_subsets": 4, "kid_subset_size": 20});
    let said =
        metrics(&bench.run("some", &stages::evaluation::fid::KIND, &inputs, params).unwrap())["warnings"].clone();
    let some = |count: u64, side: &str| {
        format!("precision, kid: of the features of 25 of the {count} {side}, all that were kept")
    };
    let few = "precision of 25 samples, fewer than 100: a share moves by a hundredth and more with each of them";
    assert_eq!(said, json!([some(40, "samples"), some(50, "reference images"), few]));
}

#[test]
fn a_set_against_itself_has_perfect_scores() {
    let bench = Bench::new();
    let (net, a) = (network(&bench, "net", 1), samples(&bench, "a", 60));
    let inputs = [("samples", a.as_path()), ("reference", &a), ("network", &net)];
    let found = metrics(&bench.run("same", &stages::evaluation::fid::KIND, &inputs, everything()).unwrap());
    // It looks like a triumph.
    let same = "the samples and the reference are the same: how far a set is from itself says nothing about it";
    assert_eq!(found["warnings"][0], same);
    let values = found["values"].clone();
    assert!(values["fd"].as_f64().unwrap().abs() < 1e-6, "{values}");
    for name in ["precision", "recall", "coverage"] {
        assert_eq!(values[name], 1.0, "{name}");
    }
}

#[test]
fn the_statistics_artifact_holds_images_features_and_moments() {
    let bench = Bench::new();
    let (net, a) = (network(&bench, "net", 1), samples(&bench, "a", 30));
    let inputs = [("images", a.as_path()), ("network", &net)];
    let out = bench.run("s", &stages::evaluation::stats::KIND, &inputs, json!({"features": 7, "arr_0": 4})).unwrap();
    let file = out.join("stats.npz");
    assert_eq!(Npz::open(&file).unwrap().names(), ["arr_0", "mu", "sigma"]);
    let (images, set) = (ImageSet::open_npz(&file).unwrap(), ImageSet::open(&a).unwrap());
    let bytes =
        |set: &ImageSet, of: &[u64]| set.batch(of, &CPU).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
    for (i, mut quarter) in [0..7, 7..15, 15..22, 22..30].into_iter().enumerate() {
        let one = bytes(&images, &[i as u64]);
        assert!(quarter.any(|k| bytes(&set, &[k]) == one), "spread over the set: {i}");
    }

    let features = open_feature_network(&net, None, &CPU).unwrap();
    let features = features.features(&set.batch(&(0..30).collect::<Vec<_>>(), &CPU).unwrap()).unwrap();
    let kept = params::load(&out.join("features.safetensors"), &CPU).unwrap().remove("pool").unwrap();
    let (kept, all) = (kept.to_vec2::<f32>().unwrap(), features.to_vec2::<f32>().unwrap());
    assert_eq!(kept.len(), 7);
    for (i, row) in kept.iter().enumerate() {
        assert!(all[i * 30 / 7..(i + 1) * 30 / 7].contains(row), "one of each seventh: {i}");
    }
    let mean = features.to_dtype(DType::F64).unwrap().mean(0).unwrap().to_vec1::<f64>().unwrap();
    let gaussian = Gaussian::read(&file, POOLED).unwrap();
    assert!(gaussian.mean().iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-12));

    let note: Value = serde_json::from_str(&fs::read_to_string(out.join("stats.json")).unwrap()).unwrap();
    let told = (&note["network"], &note["count"], &note["features"], &note["dim"], &note["mode"]);
    assert_eq!(told, (&json!("classifier"), &json!(30), &json!(7), &json!(10), &Value::Null));
}

/// 600 images are three pieces.
#[test]
fn extraction_resumes_to_the_same_bytes_in_any_batch_size() {
    let bench = Bench::new();
    let (net, a) = (network(&bench, "net", 1), samples(&bench, "a", 600));
    let inputs = [("images", a.as_path()), ("network", &net)];
    let whole = bench.run("whole", &stages::evaluation::stats::KIND, &inputs, json!({"batch": 100})).unwrap();
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    let error =
        bench.attempt("cut", &stages::evaluation::stats::KIND, &inputs, &json!({"batch": 7}), &ear).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Suspended);
    // The kill tears the next piece.
    let rows = fs::read(bench.path("cut/checkpoints/images/features-00000.f32")).unwrap();
    assert_eq!(rows.len(), 256 * 10 * 4);
    fs::write(bench.path("cut/checkpoints/images/features-00001.f32"), &rows[..1001]).unwrap();
    let ear = Ear::default();
    bench.attempt("cut", &stages::evaluation::stats::KIND, &inputs, &json!({"batch": 7}), &ear).unwrap();
    assert!(ear.text().contains(r#"{"event":"resumed","step":256}"#), "{}", ear.text());
    let cut = bench.path("cut/attempt-1/stats");
    for file in ["stats.npz", "features.safetensors", "stats.json"] {
        assert!(fs::read(whole.join(file)).unwrap() == fs::read(cut.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn the_sampler_is_recorded_with_the_metrics() {
    let lab = Lab::new();
    let inputs = [("sit", lab.trained()), ("vae", lab.path("vae"))];
    let changes = json!({"count": 12, "steps": 3, "cfg_scale": 1.5, "guidance_high": 0.9});
    lab.run(&stages::sampling::sample::KIND, "sample", changes, &inputs, &Ear::default()).unwrap();
    let (bench, made) = (&lab.bench, lab.artifact("sample", "samples"));
    let net = network(bench, "net", 1);
    let inputs = [("images", made.as_path()), ("network", &net)];
    let stats = bench.run("stats", &stages::evaluation::stats::KIND, &inputs, json!({})).unwrap();
    let other = samples(bench, "other", 12);
    for (name, samples) in [("direct", &made), ("by-stats", &stats)] {
        let inputs = [("samples", samples.as_path()), ("reference", &other), ("network", &net)];
        let found = metrics(&bench.run(name, &stages::evaluation::fid::KIND, &inputs, json!({})).unwrap());
        let told = "sde, 3 steps, cfg 1.5 for t from 0 to 0.9, labels random, weights ema";
        assert_eq!(found["sampler"], told, "{name}");
    }
}

/// What lets points of a sweep compare, and a longer sampling hold a shorter one.
#[test]
fn larger_sets_of_samples_begin_with_smaller_ones() {
    let lab = Lab::new();
    let inputs = [("sit", lab.trained()), ("vae", lab.path("vae"))];
    for labels in ["random", "balanced"] {
        let drawn = |count: u64, batch: u64| {
            let name = format!("{labels}-{count}");
            let changes = json!({"count": count, "batch": batch, "steps": 3, "cfg_scale": 1.5, "labels": labels});
            lab.run(&stages::sampling::sample::KIND, &name, changes, &inputs, &Ear::default()).unwrap();
            let set = ImageSet::open(&lab.artifact(&name, "samples")).unwrap();
            let first = set.batch(&(0..10).collect::<Vec<_>>(), &CPU).unwrap();
            (first.flatten_all().unwrap().to_vec1::<u8>().unwrap(), set.labels()[..10].to_vec())
        };
        assert_eq!(drawn(10, 4), drawn(20, 7), "{labels}");
    }
}
