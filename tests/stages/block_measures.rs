//! Measures of every block of a SiT: the kinds `cknna` and `probe`, run as a worker runs them.

use crate::stages::data::{features, latents, normals, sit};
use crate::support::bench::{Bench, Ear};
use candle_core::{DType, Device, Tensor};
use erw::error::{Error, ErrorKind, Result};
use erw::ml::data::packed::PackedWriter;
use erw::ml::nn::params::Tensors;
use erw::runner::kind::StageKind;
use erw::stages::evaluation::{cknna, probe};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;

fn read(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("metrics.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Message and hint of a failure, without the backtrace that candle may append.
fn told<T>(result: Result<T>) -> (String, Option<String>) {
    let Err(e) = result else { panic!("it did not fail") };
    (e.to_string().lines().next().unwrap_or_default().to_string(), hint(&e))
}

fn hint(e: &Error) -> Option<String> {
    e.hints.first().cloned()
}

/// Latents of `n` images of 4 classes, each near a place of its class's own; image `broken` is not
/// a number.
fn labelled(dir: &Path, n: u64, seed: u64, broken: Option<u64>) -> Result<()> {
    of_classes(dir, n, seed, broken, json!(null))
}

/// The same with names of classes.
fn of_classes(dir: &Path, n: u64, seed: u64, broken: Option<u64>, classes: Value) -> Result<()> {
    let class = |i: u64| (i * 7 / 3) % 4;
    let place = normals(4, 100, &[4, 1, 1])?;
    let places: Vec<u32> = (0..n).map(|i| class(i) as u32).collect();
    let mut mean = (place.index_select(&Tensor::new(places, &CPU)?, 0)? + (normals(n, seed, &[4, 1, 1])? * 0.2)?)?;
    if let Some(i) = broken {
        let rows: Vec<f32> = (0..n).map(|j| if j == i { f32::NAN } else { 0.0 }).collect();
        mean = mean.broadcast_add(&Tensor::from_vec(rows, (n as usize, 1, 1, 1), &CPU)?)?;
    }
    let mean = mean.broadcast_as((n as usize, 4, 4, 4))?.contiguous()?;
    let mut w = PackedWriter::create(dir, "latents", 100)?;
    w.push(&Tensors::from([
        ("std".into(), Tensor::full(0.1f32, mean.shape(), &CPU)?),
        ("mean".into(), mean),
        ("labels".into(), Tensor::from_vec((0..n).map(|i| class(i) as i64).collect(), n as usize, &CPU)?),
    ]))?;
    w.finish(&json!({"scaling_factor": 1.0, "shift_factor": 0.0, "classes": classes}))?;
    Ok(())
}

/// Features that are the class, one at a time, with two tokens.
fn one_hot(dir: &Path, n: u64) -> Result<()> {
    let value = |i: u64, j: u64| f32::from(u8::from((i * 7 / 3) % 4 == j));
    let rows: Vec<f32> = (0..n).flat_map(|i| (0..8).map(move |j| value(i, j % 4))).collect();
    features(dir, &Tensor::from_vec(rows, (n as usize, 2, 4), &CPU)?)
}

/// An untrained SiT, 80 images to learn from and 40 to test on.
fn probed(bench: &Bench) -> Result<[PathBuf; 3]> {
    let paths = ["sit", "latents", "heldout"].map(|name| bench.path(name));
    sit(&paths[0])?;
    labelled(&paths[1], 80, 1, None)?;
    labelled(&paths[2], 40, 2, None)?;
    Ok(paths)
}

fn slots(paths: &[PathBuf; 3]) -> [(&str, &Path); 3] {
    [("sit", paths[0].as_path()), ("latents", &paths[1]), ("heldout", &paths[2])]
}

#[test]
fn probe_accuracy_falls_with_noise() -> Result<()> {
    let bench = Bench::new();
    let paths = probed(&bench)?;
    let encoder = [bench.path("features"), bench.path("heldout-features")];
    one_hot(&encoder[0], 80)?;
    one_hot(&encoder[1], 40)?;
    let mut inputs = slots(&paths).to_vec();
    inputs.extend([("features", encoder[0].as_path()), ("heldout_features", &encoder[1])]);
    let out = bench.run("probe", &probe::KIND, &inputs, json!({"timesteps": [0.0, 0.1, 1.0], "batch": 16}))?;
    let metrics = read(&out);
    for name in ["linear", "knn"] {
        let scores = numbers(&metrics["measures"][name]["blocks"]);
        assert_eq!((scores.len(), scores[0].len()), (2, 3));
        for row in scores {
            assert!(row[0] > 0.9 && row[2] < 0.6, "{name} {row:?}");
        }
        assert_eq!(metrics["encoder"][name], json!(1.0));
        assert!(image::open(out.join(format!("{name}.png"))).is_ok() && out.join(format!("{name}.svg")).exists());
    }
    assert_eq!(metrics["metric"], "linear");
    assert_eq!(metrics["converged"], json!(true));
    assert_eq!((&metrics["images"], &metrics["heldout"], &metrics["classes"]), (&json!(80), &json!(40), &json!(4)));
    assert_eq!(bench.result("probe", "linear"), metrics["value"].as_f64());
    let table = fs::read_to_string(out.join("scores.csv")).unwrap();
    assert_eq!(table.lines().next(), Some("measure,block,timestep,value"));
    assert_eq!(table.lines().count(), 1 + 2 * 2 * 3);
    let first = numbers(&metrics["measures"]["linear"]["blocks"])[0][1];
    assert!(table.contains(&format!("\nlinear,1,0.1,{first}\n")), "{table}");
    Ok(())
}

#[test]
fn a_probe_by_the_recipe_of_mae_is_measured_beside_the_others() -> Result<()> {
    let bench = Bench::new();
    let paths = probed(&bench)?;
    let given = json!({"timesteps": [0.0], "probes": ["knn", "linear-mae"], "mae_batch": 16});
    let out = bench.run("mae", &probe::KIND, &slots(&paths), given)?;
    let metrics = read(&out);
    assert_eq!((&metrics["metric"], &metrics["mae_batch"]), (&json!("knn"), &json!(16)));
    assert_eq!(numbers(&metrics["measures"]["linear-mae"]["blocks"]).len(), 2);
    assert!(bench.said("mae").contains("linear-mae: 80 images, but MAE's recipe"), "{}", bench.said("mae"));
    let error = bench.run("x", &probe::KIND, &slots(&paths), json!({"mae_batch": 16})).unwrap_err();
    assert_eq!(error.message, "`mae_batch` is of the probe `linear-mae`, which is not among `probes`");
    Ok(())
}

#[test]
fn a_probe_refuses_bad_inputs() -> Result<()> {
    let bench = Bench::new();
    let paths = probed(&bench)?;
    let run = |given: Value| bench.run("probe", &probe::KIND, &slots(&paths), given);
    let hint = Some("known names are `linear`, `linear-mae` and `knn`".to_string());
    assert_eq!(told(run(json!({"probes": []}))), ("`probes` is empty".into(), hint));
    assert_eq!(told(run(json!({"probes": ["knn", "knn"]}))).0, "`probes` names `knn` twice");
    assert_eq!(told(run(json!({"timesteps": []}))).0, "`timesteps` is empty");
    let mut inputs = slots(&paths).to_vec();
    inputs.push(("features", &paths[1]));
    let half = bench.run("half", &probe::KIND, &inputs, json!({}));
    assert_eq!(told(half).0, "`features` is connected, but `heldout_features` is not");
    // Too few steps are told of, and the numbers are there all the same.
    let ear = Ear::default();
    let given = json!({"timesteps": [0.5], "max_steps": 1, "probes": ["linear"]});
    bench.attempt("loose", &probe::KIND, &slots(&paths), &given, &ear)?;
    let text = "2 of 2 linear probes did not reach a gradient below 0.0001 in 1 steps";
    assert!(ear.text().contains(text), "{}", ear.text());
    assert_eq!(read(&bench.path("loose/attempt-1/metrics"))["converged"], json!(false));
    // Labels that number other classes.
    let [all, others] = [["a", "b", "c", "d"], ["a", "b", "d", "e"]];
    of_classes(&paths[1], 80, 1, None, json!(all))?;
    of_classes(&paths[2], 40, 2, None, json!(others))?;
    let text = "input `heldout` has the classes a, b, d, … (4 classes), but input `latents` has a, b, c, … (4 classes)";
    assert_eq!(told(run(json!({"timesteps": [0.5]}))).0, text);
    labelled(&paths[2], 40, 2, Some(17))?;
    let hint = Some("the training has diverged, or the latents are damaged".to_string());
    let text = "the output of block 1 at timestep 0.5 is not finite for image 17".to_string();
    assert_eq!(told(run(json!({"timesteps": [0.5]}))), (text, hint));
    Ok(())
}

/// Puts a stage down at its first checkpoint: the next attempt goes on there and makes the same
/// bytes.
fn resumes(bench: &Bench, kind: &StageKind, inputs: &[(&str, &Path)], given: &Value, images: u64) -> Result<()> {
    let whole = bench.run("whole", kind, inputs, given.clone())?;
    let mut ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    assert!(bench.attempt("parts", kind, inputs, given, &ear).unwrap_err().kind == ErrorKind::Suspended);
    ear = Ear::default();
    bench.attempt("parts", kind, inputs, given, &ear)?;
    let resumed = format!("{{\"event\":\"resumed\",\"step\":{images}}}");
    assert!(ear.text().contains(&resumed), "{}", ear.text());
    let mut files: Vec<_> = fs::read_dir(&whole).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    assert!(files.len() >= 4);
    for file in files {
        let parts = bench.path("parts/attempt-1/metrics").join(&file);
        assert_eq!(fs::read(whole.join(&file)).unwrap(), fs::read(parts).unwrap(), "{file:?}");
    }
    Ok(())
}

#[test]
fn a_probe_resumes_at_the_next_timestep() -> Result<()> {
    let bench = Bench::new();
    let paths = probed(&bench)?;
    resumes(&bench, &probe::KIND, &slots(&paths), &json!({"timesteps": [0.1, 0.2, 0.3], "images": 30}), 60)
}

#[test]
fn cknna_resumes_at_the_next_timestep_and_gives_all_metrics() -> Result<()> {
    let bench = Bench::new();
    let paths = [bench.path("sit"), bench.path("latents"), bench.path("features")];
    sit(&paths[0])?;
    latents(&paths[1], 60)?;
    features(&paths[2], &normals(60, 1, &[1, 4])?)?;
    let inputs = [("sit", paths[0].as_path()), ("latents", &paths[1]), ("features", &paths[2])];
    let given =
        json!({"timesteps": [0.0, 0.5, 1.0], "metrics": ["cka", "mutual-knn", "cknna"], "clamp_over": "sample"});
    resumes(&bench, &cknna::KIND, &inputs, &given, 60)?;
    let metrics = read(&bench.path("whole/attempt-1/metrics"));
    assert_eq!(metrics["metric"], "cka");
    assert_eq!(metrics["value"].as_f64(), bench.result("whole", "cka"));
    for name in ["cka", "mutual-knn", "cknna"] {
        for row in numbers(&metrics["measures"][name]["blocks"]) {
            assert!(row[0] > 0.3 && row[0] > row[1] && row[1] > row[2] && row[2] < 0.35, "{name} {row:?}");
        }
    }
    let biased = json!({"timesteps": [0.0], "metrics": ["cka"], "estimator": "biased"});
    let biased = read(&bench.run("biased", &cknna::KIND, &inputs, biased)?);
    assert!(biased["value"].as_f64() > numbers(&metrics["blocks"]).iter().map(|r| r[0]).reduce(f64::max));
    Ok(())
}

#[test]
fn cknna_refuses_bad_inputs() -> Result<()> {
    let bench = Bench::new();
    let paths = [bench.path("sit"), bench.path("latents"), bench.path("features")];
    sit(&paths[0])?;
    latents(&paths[1], 9)?;
    features(&paths[2], &normals(9, 1, &[1, 4])?)?;
    let inputs = [("sit", paths[0].as_path()), ("latents", &paths[1]), ("features", &paths[2])];
    let run = |given: Value| told(bench.run("cknna", &cknna::KIND, &inputs, given));
    let hint = Some("set `k` below 9, or use more images".to_string());
    assert_eq!(run(json!({})), ("9 images are too few for 10 neighbours each".into(), hint));
    let hint = Some("known names are `cknna`, `cka` and `mutual-knn`".to_string());
    assert_eq!(run(json!({"metrics": []})), ("`metrics` is empty".into(), hint));
    assert_eq!(run(json!({"metrics": ["cka", "cka"]})).0, "`metrics` names `cka` twice");
    assert!(
        run(json!({"metrics": ["svcca"]})).0.starts_with("`metrics`: unknown variant `svcca`, expected one of `cknna`")
    );
    // Of images of another size, or of another autoencoder.
    for (name, shape) in [("small", [4, 2, 2]), ("thin", [3, 4, 4])] {
        let other = bench.path(name);
        let mut w = PackedWriter::create(&other, "latents", 100)?;
        let mean = normals(9, 1, &shape)?;
        let labels = Tensor::zeros(9, DType::I64, &CPU)?;
        w.push(&[("std".into(), mean.abs()?), ("mean".into(), mean), ("labels".into(), labels)].into())?;
        w.finish(&json!({"scaling_factor": 1.0, "shift_factor": 0.0}))?;
        let inputs = [("sit", paths[0].as_path()), ("latents", &other), ("features", &paths[2])];
        let said = told(bench.run("cknna", &cknna::KIND, &inputs, json!({"k": 3})));
        let text = format!("input `latents` has latents of shape {shape:?}, but the SiT was trained on [4, 4, 4]");
        assert_eq!(said.0, text);
    }
    let broken = Tensor::cat(&[&normals(5, 1, &[1, 4])?, &Tensor::full(f32::NAN, (4, 1, 4), &CPU)?], 0)?;
    features(&paths[2], &broken.to_dtype(DType::F32)?)?;
    let text = "input `features` has values that are not finite for image 5".to_string();
    assert_eq!(run(json!({"k": 3})), (text, None));
    Ok(())
}
