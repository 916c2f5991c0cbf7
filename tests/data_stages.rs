//! The stages around images: run as the runner runs them, on the digits, and on damaged folders.

use erw::error::Result;
use erw::ml::data::images::ImageSet;
use erw::ml::data::packed::Packed;
use erw::runner::attempt::{Attempt, Job};
use erw::runner::manifest::{Params, StageKind};
use erw::stages;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A stage run in a directory of its own, with the manifest's defaults under `given`.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `kind` in `work/NAME` and returns the directory of its only output.
    fn run(&self, name: &str, kind: &StageKind, inputs: &[(&str, &Path)], given: Value) -> Result<PathBuf> {
        let manifest: toml_edit::DocumentMut = kind.manifest.parse().unwrap();
        let (mut params, mut operation) = (defaults(&manifest["params"]), defaults(&manifest["operation"]));
        for (key, value) in given.as_object().unwrap() {
            let home = if manifest["params"].get(key).is_some() { &mut params } else { &mut operation };
            home.insert(key.clone(), value.clone());
        }
        (kind.check)(&params, &operation)?;
        let outputs = manifest["outputs"].as_table().unwrap().iter();
        let outputs: Vec<(String, String)> =
            outputs.map(|(k, v)| (k.to_string(), v.as_str().unwrap().to_string())).collect();
        let work_dir = self.path(name);
        let out = work_dir.join("out").join(&outputs[0].0);
        let _ = fs::remove_dir_all(work_dir.join("out"));
        fs::create_dir_all(&out).unwrap();
        fs::create_dir_all(work_dir.join("checkpoints")).unwrap();
        let job = Job {
            stage: name.into(),
            kind: kind.name.into(),
            key: "key".into(),
            params,
            operation,
            inputs: inputs.iter().map(|(k, v)| (k.to_string(), v.to_path_buf())).collect(),
            outputs: outputs.into_iter().collect(),
            work_dir,
            threads: 2,
            device: "cpu".into(),
            command: None,
            pipeline_dir: PathBuf::new(),
        };
        let log = fs::File::create(self.path(&format!("{name}.events"))).unwrap();
        (kind.run)(&Attempt::new(job, Box::new(log), Default::default()))?;
        Ok(out)
    }

    /// A result that the stage `name` told.
    fn result(&self, name: &str, metric: &str) -> Option<f64> {
        let text = fs::read_to_string(self.path(&format!("{name}.events"))).unwrap();
        let events = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        let found = events.filter(|e| e.to_string().contains("result") && e.to_string().contains(metric)).last()?;
        find_number(&found, "value")
    }
}

fn find_number(v: &Value, key: &str) -> Option<f64> {
    match v {
        Value::Object(m) => m.get(key).and_then(Value::as_f64).or_else(|| m.values().find_map(|v| find_number(v, key))),
        _ => None,
    }
}

fn defaults(table: &toml_edit::Item) -> Params {
    let plain = |v: &toml_edit::Value| -> Value {
        let text = format!("v = {}", v.clone().decorated("", ""));
        let value: toml_edit::DocumentMut = text.parse().unwrap();
        let item = &value["v"];
        if let Some(i) = item.as_integer() {
            return i.into();
        }
        if let Some(f) = item.as_float() {
            return f.into();
        }
        if let Some(b) = item.as_bool() {
            return b.into();
        }
        if let Some(a) = item.as_array() {
            return a.iter().map(|x| json!(x.as_float().or(x.as_integer().map(|i| i as f64)))).collect();
        }
        item.as_str().unwrap().into()
    };
    let entries = table.as_table().unwrap().iter();
    entries
        .map(|(name, item)| {
            let value = match item.as_inline_table() {
                Some(t) => t.get("default").map_or(Value::Null, plain),
                None => plain(item.as_value().unwrap()),
            };
            (name.to_string(), value)
        })
        .collect()
}

fn digits(bench: &Bench, name: &str, split: &str) -> Result<PathBuf> {
    let source = std::env::current_dir().unwrap().join("pipelines/data/digits");
    let given = json!({"source": source, "resolution": 32, "transform": "resize-bicubic", "split": split});
    bench.run(name, &stages::images::KIND, &[], given)
}

#[test]
fn digits_are_packed_and_split() -> Result<()> {
    let bench = Bench::new();
    let (train, held) = (digits(&bench, "train", "train")?, digits(&bench, "holdout", "holdout")?);
    let (a, b) = (ImageSet::open(&train)?, ImageSet::open(&held)?);
    assert_eq!(a.len() + b.len(), 1797);
    assert_eq!((a.height(), a.width(), a.classes().len(), b.classes().len()), (32, 32, 10, 10));
    assert_eq!(bench.result("train", "images"), Some(a.len() as f64));
    // The same bytes again.
    let again = digits(&bench, "again", "train")?;
    for entry in fs::read_dir(&train).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(fs::read(train.join(&name)).unwrap() == fs::read(again.join(&name)).unwrap(), "{name:?}");
    }
    Ok(())
}

#[test]
fn an_unreadable_image_fails_or_is_skipped() -> Result<()> {
    let bench = Bench::new();
    let folder = bench.path("cats");
    fs::create_dir_all(folder.join("a")).unwrap();
    let image = image::RgbImage::from_fn(20, 10, |x, y| image::Rgb([x as u8, y as u8, 0]));
    for name in ["1.png", "2.png", "3.png"] {
        image.save(folder.join("a").join(name)).unwrap();
    }
    fs::write(folder.join("a/2.png"), &fs::read(folder.join("a/2.png")).unwrap()[..60]).unwrap();
    let run = |on_error: &str| {
        let given = json!({"source": folder, "resolution": 8, "on_error": on_error});
        bench.run(on_error, &stages::images::KIND, &[], given)
    };
    let failed = run("fail").unwrap_err();
    assert!(failed.message.contains("a/2.png") && failed.hints[0].contains("on_error"), "{failed:?}");
    let set = Packed::open(&run("skip")?)?;
    assert_eq!((set.len(), &set.meta()["skipped"]), (2, &json!(1)));
    let nothing = bench.run("x", &stages::images::KIND, &[], json!({"source": bench.path("skip"), "resolution": 8}));
    let error = nothing.unwrap_err();
    assert!(error.message.contains("holds no images") && error.hints[0].contains("`source`"), "{error:?}");
    Ok(())
}

#[test]
fn an_encoder_trains_and_its_features_resume() -> Result<()> {
    let bench = Bench::new();
    let (train, held) = (digits(&bench, "train", "train")?, digits(&bench, "holdout", "holdout")?);
    let tiny = json!({"dim": 16, "heads": 2, "depth": 1, "steps": 3, "batch": 8, "patch_size": 8});
    let inputs = [("images", train.as_path()), ("holdout", held.as_path())];
    let encoder = bench.run("encoder", &stages::train_encoder::KIND, &inputs, tiny)?;
    let accuracy = bench.result("encoder", "knn_accuracy").expect("a key metric");
    assert!((0.2..=1.0).contains(&accuracy), "{accuracy}");
    let inputs = [("images", held.as_path()), ("encoder", encoder.as_path())];
    let f32s = bench.run("features", &stages::features::KIND, &inputs, json!({}))?;
    let whole = Packed::open(&f32s)?;
    assert_eq!((whole.len(), whole.shape("tokens")?), (ImageSet::open(&held)?.len(), vec![16, 16]));
    let f16s = bench.run("half", &stages::features::KIND, &inputs, json!({"dtype": "f16", "batch": 7}))?;
    let half = Packed::open(&f16s)?;
    assert_eq!(half.meta()["dtype"], "f16");
    let cpu = candle_core::Device::Cpu;
    let last = |p: &Packed| -> Result<Vec<f32>> {
        let row = p.rows("tokens", &[p.len() - 1], &cpu)?;
        Ok(row.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?)
    };
    let near = last(&whole)?.iter().zip(last(&half)?).all(|(a, b)| (a - b).abs() < 4e-3);
    assert!(near);
    Ok(())
}

/// The numbers behind the defaults of `train-encoder`; run by hand with `--ignored --nocapture`.
#[test]
#[ignore = "a minute of training"]
fn measure_encoders() -> Result<()> {
    let bench = Bench::new();
    let (train, held) = (digits(&bench, "train", "train")?, digits(&bench, "holdout", "holdout")?);
    let inputs = [("images", train.as_path()), ("holdout", held.as_path())];
    let cases = std::env::var("CASES").unwrap_or_else(|_| "[{}]".into());
    for (i, case) in serde_json::from_str::<Vec<Value>>(&cases).unwrap().into_iter().enumerate() {
        let start = std::time::Instant::now();
        let name = format!("e{i}");
        bench.run(&name, &stages::train_encoder::KIND, &inputs, case.clone())?;
        let (knn, loss) = (bench.result(&name, "knn_accuracy"), bench.result(&name, "loss"));
        eprintln!("{case} knn {knn:?} loss {loss:?} {:.1}s", start.elapsed().as_secs_f64());
    }
    Ok(())
}
