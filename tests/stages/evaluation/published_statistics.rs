//! Published statistics and those of Inception: which metrics they allow and what these are called.

use super::{metrics, network, samples};
use crate::support::bench::Bench;
use crate::support::golden::hashed;
use candle_core::{Device, Tensor};
use erw::ml::formats::NpzFile;
use erw::ml::metrics::gaussian::{POOLED, SPATIAL};
use erw::ml::metrics::stats::Stats;
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use erw::stages;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of features that depend on `name`.
fn rows(name: &str, n: usize, dim: usize) -> Tensor {
    Tensor::from_vec(hashed(name, n * dim), (n, dim), &Device::Cpu).unwrap()
}

/// A `stats` artifact of Inception as a `stats` stage makes it, but of six pooled and four spatial
/// features.
fn of_inception(bench: &Bench, name: &str, changes: Value) -> PathBuf {
    let dir = bench.path(name);
    fs::create_dir_all(&dir).unwrap();
    let (pool, spatial) = (rows(name, 40, 6), rows(&format!("{name} spatial"), 40, 4));
    let mut npz = NpzFile::create(&dir.join("stats.npz")).unwrap();
    for ([mean, covariance], rows) in [(POOLED, &pool), (SPATIAL, &spatial)] {
        let mut stats = Stats::new(rows.dims()[1]);
        stats.push(rows).unwrap();
        let (dim, sigma) = (stats.dim(), stats.covariance().unwrap());
        npz.numbers(mean, &[dim], stats.mean().iter().copied()).unwrap();
        npz.numbers(covariance, &[dim, dim], (0..dim * dim).map(|i| sigma[(i / dim, i % dim)])).unwrap();
    }
    npz.finish().unwrap();
    params::save(&Tensors::from([("pool".into(), pool)]), &dir.join("features.safetensors")).unwrap();
    let note = json!({"format": 1, "network": "fid-inception", "mode": "adm", "preparation": "adm", "dim": 6,
        "weights": "0".repeat(64), "count": 50_000, "features": 40, "sampler": null, "images": null, "caution": null,
        "inception_score": {"mean": 3.5, "std": 0.25, "parts": [3.25, 3.75]}});
    let note = super::with(note, changes);
    fs::write(dir.join("stats.json"), note.to_string()).unwrap();
    dir
}

fn fid(bench: &Bench, samples: &Path, reference: &Path, given: Value) -> Result<Value, erw::error::Error> {
    let inputs = [("samples", samples), ("reference", reference)];
    Ok(metrics(&bench.run("fid", &stages::evaluation::fid::KIND, &inputs, given)?))
}

#[test]
fn metrics_of_inception_have_their_usual_names() {
    let bench = Bench::new();
    let (a, b) = (of_inception(&bench, "a", json!({})), of_inception(&bench, "b", json!({"count": 1_281_167})));
    let all = json!({"metrics": ["is", "fid", "sfid", "precision", "recall", "kid"], "kid_subset_size": 30});
    let found = fid(&bench, &a, &b, all).unwrap();
    let values = found["values"].as_object().unwrap();
    let names: Vec<&str> = values.keys().map(String::as_str).collect();
    let wanted = ["inception_score", "inception_score_std", "fid", "sfid", "precision", "recall", "kid", "kid_std"];
    assert_eq!(names, wanted);
    assert_eq!((&values["inception_score"], &values["inception_score_std"]), (&json!(3.5), &json!(0.25)));
    assert_eq!(
        (&found["metric"], &found["mode"], &found["n_samples"]),
        (&json!("inception_score"), &json!("adm"), &json!(50_000))
    );
    assert!(values["sfid"].as_f64().unwrap() > 0.0 && values["sfid"] != values["fid"], "{found}");
    let told = json!({
        "inception_score": {"parts_of": 5000, "order": "as the samples"},
        "precision_recall": {"k": 3, "distances": "squared, in half precision", "references": 40},
        "kid": {"subsets": 100, "subset_size": 30, "seed": 2020},
    });
    assert_eq!(found["settings"], told);
    let kept = ["50000 samples", "1281167 reference images"]
        .map(|all| format!("precision, recall, kid: of the features of 40 of the {all}, all that were kept"));
    let few = ["precision", "recall"].map(|metric| few(metric, 40));
    assert_eq!(found["warnings"], json!([&kept[..], &few[..]].concat()));
}

fn few(metric: &str, count: u64) -> String {
    format!("{metric} of {count} samples, fewer than 100: a share moves by a hundredth and more with each of them")
}

#[test]
fn modes_set_the_settings_of_metrics_and_do_not_mix() {
    let bench = Bench::new();
    let torch = json!({"mode": "torch-fidelity", "count": 10_000});
    let (a, b) = (of_inception(&bench, "a", torch.clone()), of_inception(&bench, "b", torch));
    let found = fid(&bench, &a, &b, json!({"metrics": ["fid", "is", "recall"]})).unwrap();
    let told = json!({
        "inception_score": {"parts": 10, "order": "shuffled", "seed": 2020},
        "precision_recall": {"k": 3, "distances": "in single precision", "references": 40},
    });
    assert_eq!(found["settings"], told);
    let warnings = json!([
        "this is FID-10K: papers report FID-50K, and it does not compare with that",
        "the reference is 10000 images; papers compare with statistics of the whole training set, and the images that lie \
         beside these are for precision and recall only",
        "recall: of the features of 40 of the 10000 samples, all that were kept",
        "recall: of the features of 40 of the 10000 reference images, all that were kept",
        few("recall", 40),
    ]);
    assert_eq!(found["warnings"], warnings);

    // Statistics of fewer images than parts are of no Inception Score, and not because others made
    // them.
    let few = of_inception(&bench, "few", json!({"mode": "torch-fidelity", "count": 9, "inception_score": null}));
    let error = fid(&bench, &few, &b, json!({"metrics": ["is"]})).unwrap_err();
    let text = "`metrics`: `is` needs an image in every part, but the statistics of input `samples` have only 9";
    assert_eq!(error.message, text);

    let adm = of_inception(&bench, "adm", json!({}));
    let error = fid(&bench, &a, &adm, json!({})).unwrap_err();
    assert_eq!(error.message, "input `samples` was made in mode torch-fidelity, but input `reference` in mode adm");
    assert_eq!(error.hints, ["make both with one `mode`"]);
    let error = fid(&bench, &a, &b, json!({"mode": "adm"})).unwrap_err();
    assert_eq!(error.message, "`mode` is \"adm\", but the mode of the statistics is torch-fidelity");
}

#[test]
fn statistics_without_a_note_count_as_inception_if_their_width_fits() {
    let bench = Bench::new();
    let publish = |name: &str| {
        let dir = of_inception(&bench, name, json!({}));
        fs::remove_file(dir.join("stats.json")).unwrap();
        fs::remove_file(dir.join("features.safetensors")).unwrap();
        dir
    };
    let (a, b) = (publish("a"), publish("b"));
    let found = fid(&bench, &a, &b, json!({})).unwrap();
    assert_eq!((&found["metric"], &found["network"], &found["n_samples"]), (&json!("fd"), &Value::Null, &Value::Null));
    let error = fid(&bench, &a, &b, json!({"metrics": ["recall"]})).unwrap_err();
    assert!(error.message.contains("holds only `mu` and `sigma`"), "{error:?}");
    let made = of_inception(&bench, "made", json!({}));
    let error = fid(&bench, &a, &made, json!({"metrics": ["is"]})).unwrap_err();
    let said =
        "`metrics`: `is` needs class scores of single images, but another tool made the statistics of input `samples`";
    assert_eq!(error.message, said);
    // One side that tells is enough.
    assert_eq!(fid(&bench, &made, &b, json!({"metrics": ["fid", "sfid"]})).unwrap()["metric"], "fid");
}

/// Of 2,048 features they are called FID, and whose they are nobody knows either.
#[test]
fn published_statistics_of_both_sides_have_a_warning() {
    let bench = Bench::new();
    let publish = |name: &str, dim: usize, mean: f64| {
        let dir = bench.path(&format!("{name}-{dim}"));
        fs::create_dir_all(&dir).unwrap();
        let mut npz = NpzFile::create(&dir.join("stats.npz")).unwrap();
        npz.numbers("mu", &[dim], vec![mean; dim]).unwrap();
        let sigma = (0..dim * dim).map(|i| f64::from(u8::from(i % (dim + 1) == 0)));
        npz.numbers("sigma", &[dim, dim], sigma).unwrap();
        npz.finish().unwrap();
        dir
    };
    let unknown = json!([
        "the samples do not say of which network they are; only the number of features was compared",
        "the reference does not say of which network it is; only the number of features was compared",
    ]);
    for (dim, metric) in [(128, "fd"), (2048, "fid")] {
        let found = fid(&bench, &publish("a", dim, 0.0), &publish("b", dim, 0.1), json!({})).unwrap();
        assert_eq!((&found["metric"], &found["warnings"]), (&json!(metric), &unknown));
    }
    // Either side may be the one that does not say.
    let made = of_inception(&bench, "made", json!({"mode": "pytorch-fid"}));
    let (theirs, ours) =
        (publish("c", 6, 0.0), "do not say how their images were prepared: if they are not of pytorch-fid");
    let found = fid(&bench, &theirs, &made, json!({})).unwrap();
    assert!(found["warnings"][0].as_str().unwrap().starts_with(&format!("the samples {ours}")), "{found}");
    let found = fid(&bench, &made, &theirs, json!({})).unwrap();
    assert!(found["warnings"][0].as_str().unwrap().starts_with("the reference does not say how its images"), "{found}");
}

/// As the files of the ADM suite are used: moments as they stand, the images for all that looks at
/// single ones.
#[test]
fn images_beside_published_statistics_are_used() {
    let bench = Bench::new();
    let (net, a, b) = (network(&bench, "net", 1), samples(&bench, "a", 20), samples(&bench, "b", 25));
    let inputs = [("images", b.as_path()), ("network", &net)];
    let whole = bench.run("whole", &stages::evaluation::stats::KIND, &inputs, json!({"arr_0": 25})).unwrap();
    let published = bench.path("published");
    fs::create_dir_all(&published).unwrap();
    fs::copy(whole.join("stats.npz"), published.join("stats.npz")).unwrap();
    let values = |name: &str, reference: &Path| {
        let inputs = [("samples", a.as_path()), ("reference", reference), ("network", &net)];
        let found = metrics(&bench.run(name, &stages::evaluation::fid::KIND, &inputs, super::everything()).unwrap());
        (found["values"].clone(), found["n_reference"].clone(), found["n_reference_features"].clone())
    };
    let (images, by_stats) = (values("images", &b), values("stats", &published));
    assert_eq!((&images.0, &images.2), (&by_stats.0, &by_stats.2));
    assert_eq!((images.1, by_stats.1), (json!(25), Value::Null));
    let without = [("samples", whole.as_path()), ("reference", published.as_path())];
    let error = bench.run("w", &stages::evaluation::fid::KIND, &without, json!({"metrics": ["recall"]})).unwrap_err();
    assert_eq!(
        error.message,
        "`metrics`: `recall` needs features of the images in `reference`, but input `network` is not connected"
    );
}

#[test]
fn a_file_without_statistics_is_not_imported() {
    let bench = Bench::new();
    let file = bench.path("ref.npz");
    let import = |arrays: &[(&str, &[usize], f64)]| {
        let mut npz = NpzFile::create(&file).unwrap();
        for (name, shape, value) in arrays {
            npz.numbers(name, shape, vec![*value; shape.iter().product()]).unwrap();
        }
        npz.finish().unwrap();
        bench.run("w", &stages::data::weights::KIND, &[], json!({"as": "stats", "source": file}))
    };
    let refused = |arrays: &[(&str, &[usize], f64)]| {
        let error = import(arrays).unwrap_err();
        assert_eq!(error.message, format!("`{}` does not hold valid statistics", file.display()));
        // Where backtraces are on, one follows.
        error.causes[0].lines().next().unwrap().replace(&file.display().to_string(), "FILE")
    };
    assert_eq!(refused(&[("mu", &[3], 0.0)]), "FILE: it has no array `sigma`, but mu");
    let flat = refused(&[("mu", &[3], 0.0), ("sigma", &[9], 0.0)]);
    assert_eq!(flat, "FILE: `mu` and `sigma` must have shapes [d] and [d, d], not [3] and [9]");
    let other = refused(&[("mu", &[3], 0.0), ("sigma", &[2, 2], 0.0)]);
    assert_eq!(other, "FILE: `mu` has dimension 3, but `sigma` is 2 x 2");
    let nan = refused(&[("mu", &[3], f64::NAN), ("sigma", &[3, 3], 0.0)]);
    assert_eq!(nan, "FILE: entry 0 of the mean is not finite");
    let half = refused(&[("mu", &[3], 0.0), ("sigma", &[3, 3], 0.0), ("mu_s", &[2], 0.0)]);
    assert_eq!(half, "FILE: it has no array `sigma_s`, but mu, mu_s, sigma");
    import(&[("mu", &[3], 0.0), ("sigma", &[3, 3], 0.0)]).unwrap();
}
