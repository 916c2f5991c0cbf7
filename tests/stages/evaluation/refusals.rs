//! Impossible metrics are refused before any image is read, and degenerate ones have a warning.

use super::{SIDE, everything, metrics, network, samples};
use crate::support::arrays::write_arrays;
use crate::support::bench::Bench;
use erw::error::Error;
use erw::ml::viz::picture::write_npz;
use erw::stages;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn fid(bench: &Bench, inputs: &[(&str, &Path)], given: Value) -> Result<PathBuf, Error> {
    // Another comparison, which must not go on with the features of the one before.
    let _ = fs::remove_dir_all(bench.path("fid"));
    bench.run("fid", &stages::evaluation::fid::KIND, inputs, given)
}

/// Message and hints of what must fail.
fn refused(bench: &Bench, inputs: &[(&str, &Path)], given: Value) -> (String, Vec<String>) {
    let error = fid(bench, inputs, given).unwrap_err();
    (error.message, error.hints)
}

/// Published statistics of `dim` features, with images beside them if there are any.
fn published(bench: &Bench, name: &str, dim: usize) -> PathBuf {
    let dir = bench.path(name);
    fs::create_dir_all(&dir).unwrap();
    let sigma = (0..dim * dim).map(|i| f64::from(u8::from(i % (dim + 1) == 0))).collect();
    let arrays = [("mu", vec![dim], vec![0.5; dim]), ("sigma", vec![dim, dim], sigma)];
    write_arrays(&dir.join("stats.npz"), &arrays);
    dir
}

#[test]
fn the_list_of_metrics_is_checked() {
    let bench = Bench::new();
    let list = |names: Value| refused(&bench, &[], json!({ "metrics": names }));
    let known = "known metrics are fid, sfid, is, precision, recall, density, coverage, kid, cmmd".to_string();
    assert_eq!(list(json!(["fid", "lpips"])), ("`metrics`: no metric `lpips`".into(), vec![known]));
    assert_eq!(list(json!(["fid", "fid"])).0, "`metrics` names `fid` twice");
    assert_eq!(list(json!([])).0, "`metrics` is empty");
}

#[test]
fn a_metric_of_another_network_is_refused() {
    let bench = Bench::new();
    let (net, a) = (network(&bench, "net", 1), samples(&bench, "a", 12));
    let inputs = [("samples", a.as_path()), ("reference", &a), ("network", &net)];
    let of = |name: &str| refused(&bench, &inputs, json!({ "metrics": [name] }));
    let inception = vec!["connect an `inception` to input `network`".to_string()];
    assert_eq!(
        of("sfid"),
        ("`metrics`: `sfid` needs Inception, but the network is `classifier`".into(), inception.clone())
    );
    assert_eq!(of("is"), ("`metrics`: `is` needs Inception, but the network is `classifier`".into(), inception));
    assert_eq!(of("cmmd").0, "`metrics`: `cmmd` needs CLIP embeddings, but the network is `classifier`");
    // Nothing was looked at.
    assert!(!bench.path("fid/checkpoints/samples").exists());
}

#[test]
fn images_need_a_network_and_statistics_the_needed_features() {
    let bench = Bench::new();
    let (net, a, p) = (network(&bench, "net", 1), samples(&bench, "a", 12), published(&bench, "p", 10));
    let said = refused(&bench, &[("samples", &a), ("reference", &p)], json!({}));
    assert_eq!(said.0, "input `samples` contains images, but input `network` is not connected");

    let inputs = [("samples", a.as_path()), ("reference", &p), ("network", &net)];
    let said = refused(&bench, &inputs, json!({"metrics": ["fid", "precision"]}));
    assert_eq!(
        said.0,
        "`metrics`: `precision` needs features of single images, but input `reference` holds only `mu` and `sigma`"
    );
    assert_eq!(said.1, ["connect images, or statistics that hold features or `arr_0`"]);
    fid(&bench, &inputs, json!({})).unwrap();

    let wide = published(&bench, "wide", 12);
    let inputs = [("samples", a.as_path()), ("reference", &wide), ("network", &net)];
    assert_eq!(refused(&bench, &inputs, json!({})).0, "input `reference` has 12 features, but the network makes 10");
    let said = refused(&bench, &[("samples", &p), ("reference", &wide)], json!({}));
    assert_eq!(said.0, "input `reference` has 12 features, but the other side has 10");
}

#[test]
fn statistics_of_other_networks_do_not_compare() {
    let bench = Bench::new();
    let (net, other, a) = (network(&bench, "net", 1), network(&bench, "other", 2), samples(&bench, "a", 12));
    let stats = |name: &str, net: &Path| {
        bench.run(name, &stages::evaluation::stats::KIND, &[("images", &a), ("network", net)], json!({})).unwrap()
    };
    let (ours, theirs) = (stats("ours", &net), stats("theirs", &other));
    let error = fid(&bench, &[("samples", &ours), ("reference", &theirs)], json!({})).unwrap_err();
    assert_eq!(error.message, "input `samples` and input `reference` are features of other networks");
    assert!(error.causes[0].starts_with("input `samples`: `classifier`, weights "), "{error:?}");
    assert_eq!(error.hints, ["make both with one network"]);
    let inputs = [("samples", a.as_path()), ("reference", &theirs), ("network", &net)];
    let said = refused(&bench, &inputs, json!({}));
    assert_eq!(said.0, "input `network` and input `reference` are features of other networks");

    // The same network, asked in another way.
    let note = theirs.join("stats.json");
    let mut changed: Value = serde_json::from_str(&fs::read_to_string(ours.join("stats.json")).unwrap()).unwrap();
    changed["preparation"] = json!("mirrored");
    fs::write(&note, changed.to_string()).unwrap();
    let error = fid(&bench, &[("samples", &ours), ("reference", &theirs)], json!({})).unwrap_err();
    assert_eq!(
        error.message,
        "images of input `samples` and input `reference` were prepared for the network in different ways"
    );
    assert_eq!(error.causes, ["input `samples`: x / 127.5 - 1\ninput `reference`: mirrored"]);
    fs::write(&note, "{}").unwrap();
    let error = fid(&bench, &[("samples", &ours), ("reference", &theirs)], json!({})).unwrap_err();
    assert_eq!(error.message, "input `reference`");
    assert_eq!(error.causes[0], format!("`{}` does not describe statistics", note.display()));
}

/// A classifier answers for images of any size, and means nothing by it.
#[test]
fn a_classifier_refuses_images_of_another_size() {
    let bench = Bench::new();
    let (net, a) = (network(&bench, "net", 1), samples(&bench, "a", 12));
    let large = bench.path("large");
    fs::create_dir_all(&large).unwrap();
    write_npz(&large.join("samples.npz"), &vec![7; 12 * 64 * 64 * 3], 64, 64, &[0; 12]).unwrap();
    let said = refused(&bench, &[("samples", &large), ("reference", &a), ("network", &net)], json!({}));
    let text = format!("input `samples`: images of 64 x 64 pixels, but the classifier was trained on {SIDE} x {SIDE}");
    assert_eq!(said.0, text);
}

#[test]
fn too_few_images_are_an_error_but_equal_images_are_not() {
    let bench = Bench::new();
    let (net, a, one) = (network(&bench, "net", 1), samples(&bench, "a", 12), samples(&bench, "one", 1));
    let inputs = |samples| [("samples", samples), ("reference", a.as_path()), ("network", net.as_path())];
    let said = refused(&bench, &inputs(one.as_path()), json!({}));
    assert_eq!(said.0, "`metrics`: `fid` needs 2 images of each side, but input `samples` has 1");
    let three = samples(&bench, "three", 3);
    let said = refused(&bench, &inputs(&three), json!({"metrics": ["precision"]}));
    assert_eq!(said.0, "`metrics`: `precision` needs 4 images of each side, but input `samples` has 3");
    let said = refused(&bench, &inputs(&three), json!({"metrics": ["kid"]}));
    assert_eq!(said.0, "`metrics`: `kid` needs 1000 images of each side, but input `samples` has 3");
    assert_eq!(said.1, ["`kid_subset_size` is 1000; values with another size are not comparable"]);

    // All alike: the covariance is zero, and the distance that of the means.
    let flat = |name: &str, value: u8| {
        let dir = bench.path(name);
        fs::create_dir_all(&dir).unwrap();
        write_npz(&dir.join("samples.npz"), &vec![value; 30 * SIDE * SIDE * 3], SIDE, SIDE, &[0; 30]).unwrap();
        dir
    };
    let (dark, light) = (flat("dark", 10), flat("light", 200));
    let score = |samples: &Path, reference: &Path| {
        let inputs = [("samples", samples), ("reference", reference), ("network", net.as_path())];
        metrics(&fid(&bench, &inputs, everything()).unwrap())["values"].clone()
    };
    let same = score(&dark, &dark);
    assert_eq!((&same["fd"], &same["precision"], &same["recall"]), (&json!(0.0), &json!(1.0), &json!(1.0)));
    let apart = score(&dark, &light);
    assert_eq!((&apart["precision"], &apart["recall"]), (&json!(0.0), &json!(0.0)));
    assert!(apart["fd"].as_f64().unwrap() > 0.0 && apart["kd"].as_f64().unwrap() > 0.0, "{apart}");
}

#[test]
fn statistics_need_either_images_or_a_source() {
    let bench = Bench::new();
    let (net, a) = (network(&bench, "net", 1), samples(&bench, "a", 3));
    let run = |inputs: &[(&str, &Path)], given: Value| {
        bench.run("s", &stages::evaluation::stats::KIND, inputs, given).unwrap_err().message
    };
    assert_eq!(run(&[("network", &net)], json!({})), "neither `source` is given nor is input `images` connected");
    let both = run(&[("network", &net), ("images", &a)], json!({"source": a}));
    assert_eq!(both, "`source` is given, and input `images` is connected");
}
