//! Prepared latents and features of other tools are imported as if they were made here; files that
//! do not fit are named.

use crate::support::arrays::{moments_name, normals, npy, npy_f32};
use crate::support::bench::{Bench, Ear};
use candle_core::{DType, Device, Tensor};
use erw::error::{ErrorKind, Result};
use erw::ml::data::images::ImageSet;
use erw::ml::data::latents::Latents;
use erw::ml::data::packed::Packed;
use erw::ml::data::released::ReadyLatents;
use erw::ml::data::source::ImageListing;
use erw::ml::formats::torch_write;
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::nn::params;
use erw::ml::nn::params::{ParamSet, Tensors};
use erw::stages;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A folder as REPA's preparation leaves it, of these posteriors: `vae-sd` in `dir`.
fn vae_sd(dir: &Path, latents: &Packed) -> Result<PathBuf> {
    let root = dir.join("vae-sd");
    let shape = latents.shape("mean")?;
    let mut list = vec![];
    for i in 0..latents.len() {
        let mut values = vec![];
        for half in ["mean", "std"] {
            values.extend(latents.rows(half, &[i], &CPU)?.flatten_all()?.to_vec1::<f32>()?);
        }
        let name = moments_name(i as usize);
        write(&root.join(&name), npy_f32(&[2 * shape[0], shape[1], shape[2]], &values));
        list.push(json!([name, latents.rows("labels", &[i], &CPU)?.to_vec1::<i64>()?[0]]));
    }
    // In no order, as any folder is read.
    list.reverse();
    write(&root.join("dataset.json"), json!({ "labels": list }).to_string());
    Ok(root)
}

fn vae(bench: &Bench) -> Result<PathBuf> {
    let config = VaeConfig::rgb(&[8, 8], 1, 4, 4, false);
    let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
    AutoencoderKl::new(&config, vb)?;
    let dir = bench.path("vae");
    fs::create_dir_all(&dir).unwrap();
    params::save(&params.tensors(), &dir.join("vae.safetensors"))?;
    fs::write(dir.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    Ok(dir)
}

/// Images of 8 x 8 pixels and their latents, in shards of 100.
fn made_here(bench: &Bench) -> Result<[PathBuf; 3]> {
    let source = std::env::current_dir().unwrap().join("pipelines/data/digits");
    let given = json!({"source": source, "resolution": 8, "transform": "resize-bicubic", "limit": 23});
    let images = bench.run("images", &stages::data::images::KIND, &[], given)?;
    let vae = vae(bench)?;
    let inputs = [("images", images.as_path()), ("vae", vae.as_path())];
    let latents =
        bench.run("latents", &stages::data::latents::KIND, &inputs, json!({"rows_per_shard": 100, "batch": 64}))?;
    Ok([images, vae, latents])
}

/// A few steps of training on latents and features, and samples of it.
fn train_and_sample(bench: &Bench, name: &str, latents: &Path, features: &Path, vae: &Path) -> Result<PathBuf> {
    let tiny = json!({"model": "custom", "hidden": 24, "blocks": 2, "heads": 2, "patch_size": 2, "projector_dim": 16,
        "encoder_depth": 1, "batch": 4, "steps": 3, "ema_decay": 0.5, "alignment": "constant"});
    let inputs = [("latents", latents), ("features", features)];
    let sit = bench.run(&format!("{name}-train"), &stages::training::train::KIND, &inputs, tiny)?;
    let inputs = [("sit", sit.as_path()), ("vae", vae)];
    bench.run(&format!("{name}-sample"), &stages::sampling::sample::KIND, &inputs, json!({"count": 4, "steps": 2}))
}

/// Names and bytes of the files of an artifact.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(p).unwrap()))
        .collect();
    files.sort();
    files
}

fn shards(dir: &Path) -> Vec<(String, Vec<u8>)> {
    files(dir).into_iter().filter(|(name, _)| name != "meta.json").collect()
}

fn failure(bench: &Bench, given: Value) -> String {
    let error = bench.run("refused", &stages::data::import_latents::KIND, &[], given).unwrap_err();
    assert!(!error.message.contains("panic"), "{error:?}");
    error.message
}

#[test]
fn a_repa_folder_imports_as_the_latents_stage_would_make_it() -> Result<()> {
    let bench = Bench::new();
    let [images, vae, latents] = made_here(&bench)?;
    let packed = Packed::open(&latents)?;
    let source = vae_sd(&bench.path("prepared"), &packed)?;
    let config: VaeConfig = serde_json::from_slice(&fs::read(vae.join("config.json")).unwrap()).unwrap();
    let given = json!({"source": source, "scaling_factor": config.scaling_factor, "rows_per_shard": 100, "batch": 7});
    let imported = bench.run("import", &stages::data::import_latents::KIND, &[], given)?;
    assert_eq!(shards(&imported).len(), 3);
    assert!(shards(&imported) == shards(&latents));
    // Class names are not in the list.
    let (mut ours, theirs) = (packed.meta().clone(), Packed::open(&imported)?.meta().clone());
    let digits: Vec<String> = (0..10).map(|c| c.to_string()).collect();
    ours["classes"] = json!(digits);
    assert_eq!(ours, theirs);

    // Features made here are paired with them.
    let tiny = json!({"dim": 16, "heads": 2, "depth": 1, "steps": 2, "batch": 8, "patch_size": 4});
    let inputs = [("images", images.as_path()), ("holdout", images.as_path())];
    let encoder = bench.run("encoder", &stages::training::train_encoder::KIND, &inputs, tiny)?;
    let inputs = [("images", images.as_path()), ("encoder", encoder.as_path())];
    let features = bench.run("features", &stages::data::features::KIND, &inputs, json!({}))?;
    let samples = train_and_sample(&bench, "repa", &imported, &features, &vae)?;
    assert_eq!(ImageSet::open(&samples)?.len(), 4);
    Ok(())
}

/// Five images and the latents of them, whose values tell the number; labels count down.
fn five(bench: &Bench) -> (PathBuf, PathBuf) {
    let (images, latents) = (bench.path("prepared/images"), bench.path("prepared/vae-sd"));
    let (mut of_images, mut of_latents) = (vec![], vec![]);
    for i in 0..5usize {
        let name = format!("00000/img{i:08}.png");
        write(&images.join(&name), "");
        of_images.push(json!([name, 4 - i]));
        let values: Vec<f32> = (0..16).map(|k| if k < 8 { i as f32 } else { 0.5 }).collect();
        write(&latents.join(moments_name(i)), npy_f32(&[4, 2, 2], &values));
        of_latents.push(json!([moments_name(i), 4 - i]));
    }
    write(&images.join("dataset.json"), json!({"labels": of_images}).to_string());
    write(&latents.join("dataset.json"), json!({"labels": of_latents}).to_string());
    (images, latents)
}

#[test]
fn latents_and_images_are_paired_by_number() -> Result<()> {
    let bench = Bench::new();
    let (images, latents) = five(&bench);
    // Images that are in another order by their names: the second comes last.
    fs::rename(images.join("00000/img00000001.png"), images.join("00000/later00000001.png")).unwrap();
    let text = fs::read_to_string(images.join("dataset.json")).unwrap().replace("img00000001", "later00000001");
    write(&images.join("dataset.json"), text);
    let given = || json!({"source": latents, "images": images});
    let packed = Packed::open(&bench.run("paired", &stages::data::import_latents::KIND, &[], given())?)?;
    let numbers: Vec<f32> = packed.all("mean", &CPU)?.narrow(1, 0, 1)?.mean((1, 2, 3))?.to_vec1()?;
    assert_eq!(numbers, [0.0, 2.0, 3.0, 4.0, 1.0]);
    assert_eq!(packed.all("labels", &CPU)?.to_vec1::<i64>()?, [4, 2, 1, 0, 3]);
    assert_eq!(packed.meta()["scaling_factor"], 0.18215);

    // Without a list of their own, they have the labels of the images; without either, none.
    let list = fs::read_to_string(latents.join("dataset.json")).unwrap();
    fs::remove_file(latents.join("dataset.json")).unwrap();
    assert!(bench.run("unlisted", &stages::data::import_latents::KIND, &[], given()).is_ok());
    assert!(failure(&bench, json!({"source": latents})).contains("vae-sd/dataset.json is missing"));

    // A label that differs, a file too few, a file too many, a number twice, a name without one.
    write(&latents.join("dataset.json"), list.replace("0002.npy\",2", "0002.npy\",3"));
    let text = failure(&bench, given());
    assert!(text.contains("img-mean-std-00000002.npy has label 3") && text.contains("img00000002.png has 2"), "{text}");
    fs::remove_file(latents.join("dataset.json")).unwrap();
    let second = latents.join(moments_name(1));
    let bytes = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    let text = failure(&bench, given());
    assert!(text.contains("latents are missing for 1 file: ") && text.contains("later00000001.png"), "{text}");
    write(&second, &bytes);
    write(&latents.join(moments_name(7)), &bytes);
    let text = failure(&bench, given());
    assert!(text.contains("1 file without an image: 00000/img-mean-std-00000007.npy"), "{text}");
    fs::remove_file(latents.join(moments_name(7))).unwrap();
    write(&latents.join("00001/x00000001.npy"), &bytes);
    assert!(failure(&bench, given()).contains("have the same number"));
    fs::rename(latents.join("00001/x00000001.npy"), latents.join("mean.npy")).unwrap();
    assert!(failure(&bench, given()).contains("mean.npy: the name does not end with a number"));
    // What its own list says is checked without images too.
    write(&latents.join("dataset.json"), list);
    assert!(failure(&bench, json!({"source": latents})).contains("has no label for 1 file: mean.npy"));
    assert!(failure(&bench, json!({"source": bench.path("prepared")})).contains("in its folder `vae-sd`"));
    Ok(())
}

#[test]
fn invalid_latents_are_named() {
    let bench = Bench::new();
    let (_, latents) = five(&bench);
    let third = moments_name(3);
    let with = |at: usize, value: f32| {
        let mut values = [0.5; 16];
        values[at] = value;
        npy_f32(&[4, 2, 2], &values)
    };
    let whole = with(0, 0.0);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (with(1, f32::NAN), "the mean is NaN at element 1"),
        (with(7, f32::INFINITY), "the mean is inf"),
        (with(8, -0.1), "the standard deviation is -0.1 at element 0"),
        (with(15, f32::NAN), "the standard deviation is NaN"),
        (npy_f32(&[4, 1, 2], &[0.5; 8]), "the latent has shape [2, 1, 2]"),
        (npy_f32(&[3, 2, 2], &[0.5; 12]), "with a mean and a standard deviation"),
        (npy_f32(&[16], &[0.5; 16]), "shape [16], not [2C, h, w] with a mean and a standard deviation"),
        (npy_f32(&[4, 0, 2], &[]), "with a mean and a standard deviation"),
        (npy("<f4", &[4, usize::MAX, usize::MAX], &[0; 64]), "cannot read"),
        (npy("<i8", &[4, 2, 2], &[0; 128]), "an array of type i64, not f32"),
        (npy("|O", &[4, 2, 2], &[0; 128]), third.as_str()),
        (whole[..whole.len() - 3].to_vec(), "cannot read"),
        (whole[..20].to_vec(), "a truncated NumPy array"),
        (b"<html>".to_vec(), "not a NumPy array"),
        (vec![], "not a NumPy array"),
    ];
    for (bytes, expected) in cases {
        write(&latents.join(&third), bytes);
        let text = failure(&bench, json!({"source": latents}));
        assert!(text.contains(expected) && text.contains(&third), "{text}");
    }
}

/// Shards as the release's extraction writes them, of 3 and 4 samples: scaled latents, labels, one
/// encoder's features.
fn release(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).unwrap();
    for (i, n) in [3u64, 4].into_iter().enumerate() {
        let labels = Tensor::from_iter((0..n as i64).map(|k| k % 3), &CPU)?;
        let shard = Tensors::from([
            ("latents".into(), normals(n, i as u64, &[4, 4, 4])),
            ("labels".into(), labels),
            ("encoder_0_features".into(), normals(n, 10 + i as u64, &[4, 10])),
        ]);
        params::save(&shard, &dir.join(format!("latents_shard{i:02}_of_02.safetensors")))?;
    }
    Ok(())
}

#[test]
fn released_shards_hold_latents_and_features() -> Result<()> {
    let bench = Bench::new();
    let source = bench.path("release");
    release(&source)?;
    let latents =
        bench.run("latents", &stages::data::import_latents::KIND, &[], json!({"source": source, "batch": 2}))?;
    let packed = Packed::open(&latents)?;
    let expected = Tensor::cat(&[normals(3, 0, &[4, 4, 4]), normals(4, 1, &[4, 4, 4])], 0)?;
    let bits = |t: Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
    // Already scaled, and not drawn again.
    assert_eq!(bits(packed.all("mean", &CPU)?)?, bits(expected)?);
    assert_eq!(bits(packed.all("std", &CPU)?)?, vec![0.0; 7 * 64]);
    assert_eq!((&packed.meta()["scaling_factor"], &packed.meta()["classes"]), (&json!(1.0), &json!(["0", "1", "2"])));
    assert_eq!(packed.all("labels", &CPU)?.to_vec1::<i64>()?, [0, 1, 2, 0, 1, 2, 0]);

    let run = |name: &str, given: Value| bench.run(name, &stages::data::import_features::KIND, &[], given);
    let features = run("features", json!({"source": source, "batch": 5}))?;
    let tokens = Packed::open(&features)?.all("tokens", &CPU)?;
    assert_eq!(bits(tokens)?, bits(Tensor::cat(&[normals(3, 10, &[4, 10]), normals(4, 11, &[4, 10])], 0)?)?);
    let half = Packed::open(&run("half", json!({"source": source, "dtype": "f16"}))?)?;
    assert_eq!((half.dtype("tokens")?, half.meta()["tokens"].clone()), (DType::F16, json!(4)));
    let none = run("none", json!({"source": source, "encoder": 1})).unwrap_err();
    assert!(none.message.contains("no tensor `encoder_1_features` (has encoder_0_features"), "{none}");

    let samples = train_and_sample(&bench, "release", &latents, &features, &vae(&bench)?)?;
    assert_eq!(ImageSet::open(&samples)?.len(), 4);

    // LightningDiT's names: not scaled yet.
    let other = bench.path("lightning");
    fs::create_dir(&other).unwrap();
    fs::copy(source.join("latents_shard00_of_02.safetensors"), other.join("latents_rank00_shard000.safetensors"))
        .unwrap();
    let unscaled = bench.run("unscaled", &stages::data::import_latents::KIND, &[], json!({"source": other}))?;
    assert_eq!(Packed::open(&unscaled)?.meta()["scaling_factor"], 0.18215);

    // And its latents of mirrored images, where they are asked for and there.
    let ask = json!({"source": other, "flip": true});
    let error = bench.run("none mirrored", &stages::data::import_latents::KIND, &[], ask.clone()).unwrap_err();
    assert!(error.to_string().contains("no tensor `latents_flip`"), "{error}");
    let shard = other.join("latents_rank00_shard000.safetensors");
    let mut tensors = params::load(&shard, &CPU)?;
    let mirrored = (&tensors["latents"] * 2.0)?;
    tensors.insert("latents_flip".into(), mirrored.clone());
    params::save(&tensors, &shard)?;
    let both = Packed::open(&bench.run("both", &stages::data::import_latents::KIND, &[], ask)?)?;
    assert_eq!(values(&both.all("mean_flip", &CPU)?)?, values(&mirrored.to_dtype(DType::F32)?)?);
    assert_eq!(values(&both.all("mean", &CPU)?)?, values(&tensors["latents"].to_dtype(DType::F32)?)?);
    assert!(values(&both.all("std_flip", &CPU)?)?.iter().all(|v| *v == 0.0));
    Ok(())
}

#[test]
fn damaged_shards_are_named() -> Result<()> {
    let bench = Bench::new();
    let source = bench.path("release");
    let second = source.join("latents_shard01_of_02.safetensors");
    let refused = |tensors: &[(&str, Tensor)]| -> Result<String> {
        release(&source)?;
        let mut shard = params::load(&second, &CPU)?;
        shard.extend(tensors.iter().map(|(name, t)| ((*name).to_string(), t.clone())));
        params::save(&shard, &second)?;
        Ok(failure(&bench, json!({"source": source})))
    };
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &CPU);
    let with_nan = Tensor::cat(&[ones(&[3, 4, 4, 4])?, (ones(&[1, 4, 4, 4])? * f64::NAN)?], 0)?;
    for (tensors, expected) in [
        (vec![("latents", with_nan)], "01_of_02.safetensors: `latents` has the value NaN in row 3"),
        (vec![("latents", ones(&[4, 4, 2, 2])?)], "01_of_02.safetensors: latents have shape [4, 2, 2]"),
        (vec![("latents", ones(&[4, 4])?)], "not [C, h, w]"),
        (vec![("labels", Tensor::new(&[0i64, 1, -1, 2], &CPU)?)], "01_of_02.safetensors: invalid label -1"),
        (vec![("labels", Tensor::new(&[0i64, 1], &CPU)?)], "2"),
        (vec![("labels", ones(&[4, 2])?)], "not single numbers"),
    ] {
        let text = refused(&tensors)?;
        assert!(text.contains(expected) && text.contains("01_of_02"), "{text}");
    }
    release(&source)?;
    let bytes = fs::read(&second).unwrap();
    fs::write(&second, &bytes[..bytes.len() - 1]).unwrap();
    assert!(failure(&bench, json!({"source": source})).contains("01_of_02.safetensors: truncated"));
    fs::remove_file(&second).unwrap();
    assert!(failure(&bench, json!({"source": source})).contains("latents_shard01_of_02.safetensors is missing"));
    fs::copy(source.join("latents_shard00_of_02.safetensors"), source.join("latents_shard00_of_03.safetensors"))
        .unwrap();
    assert!(failure(&bench, json!({"source": source})).contains("several extractions"));
    let features = bench.run("f", &stages::data::import_features::KIND, &[], json!({"source": bench.path("nothing")}));
    assert!(features.is_err());
    Ok(())
}

#[test]
fn labels_and_numbers_that_would_be_changed_are_refused() -> Result<()> {
    let bench = Bench::new();
    let source = bench.path("release");
    release(&source)?;
    let second = source.join("latents_shard01_of_02.safetensors");
    let change = |name: &str, tensor: Tensor| -> Result<()> {
        let mut shard = params::load(&second, &CPU)?;
        shard.insert(name.into(), tensor);
        Ok(params::save(&shard, &second)?)
    };
    change("labels", Tensor::new(&[0.0f32, 2.0, 1.0, 0.0], &CPU)?)?;
    let run = |name: &str, kind, given: Value| bench.run(name, kind, &[], given);
    let latents = run("whole", &stages::data::import_latents::KIND, json!({"source": source}))?;
    assert_eq!(Packed::open(&latents)?.all("labels", &CPU)?.to_vec1::<i64>()?[3..], [0, 2, 1, 0]);
    change("labels", Tensor::new(&[0.0f32, 1.5, 1.0, 0.0], &CPU)?)?;
    let text = failure(&bench, json!({"source": source}));
    assert!(text.contains("01_of_02.safetensors: `labels` has the value 1.5 in row 1"), "{text}");

    // What half precision cannot hold.
    release(&source)?;
    let tokens = (Tensor::ones(&[4, 4, 10], DType::F32, &CPU)? * -100_000.0)?;
    change("encoder_0_features", tokens)?;
    let features = |name: &str, dtype: &str| {
        run(name, &stages::data::import_features::KIND, json!({"source": source, "dtype": dtype}))
    };
    let error = features("half", "f16").unwrap_err();
    assert!(error.message.contains("a value of magnitude 100000, which f16 cannot hold"), "{error:?}");
    assert_eq!(error.hints, ["set `dtype = \"f32\"`"]);
    features("single", "f32")?;
    change("encoder_0_features", (Tensor::ones(&[4, 4, 10], DType::F32, &CPU)? * 65_504.0)?)?;
    features("largest", "f16")?;
    Ok(())
}

#[test]
fn gaps_between_shards_are_refused() -> Result<()> {
    let bench = Bench::new();
    release(&bench.path("release"))?;
    let shard = bench.path("release/latents_shard00_of_02.safetensors");
    let import = |name: &str, files: &[&str]| {
        let source = bench.path(name);
        fs::create_dir(&source).unwrap();
        for file in files {
            fs::copy(&shard, source.join(format!("latents_{file}.safetensors"))).unwrap();
        }
        bench.run(&format!("{name}-out"), &stages::data::import_latents::KIND, &[], json!({"source": source}))
    };
    let whole = import("whole", &["rank00_shard000", "rank00_shard001", "rank01_shard000"])?;
    assert_eq!(Packed::open(&whole)?.len(), 9);
    for (name, files, absent) in [
        ("shard", &["rank00_shard000", "rank00_shard002"][..], "rank00_shard001"),
        ("first", &["rank00_shard001"], "rank00_shard000"),
        ("rank", &["rank00_shard000", "rank02_shard000"], "rank01_shard000"),
        ("of rank", &["rank00_shard000", "rank01_shard001"], "rank01_shard000"),
    ] {
        let error = import(name, files).unwrap_err();
        let text = format!("latents_{absent}.safetensors is missing");
        assert!(error.message.ends_with(&text), "{name}: {error:?}");
    }
    let twice = import("twice", &["shard00_of_02", "shard01_of_02", "shard1_of_02"]).unwrap_err();
    assert!(twice.message.contains("more shards than the 2 that their names state"), "{twice:?}");
    Ok(())
}

/// Stopped after its first shard, with a half-written one behind it, a stage goes on and ends with
/// the bytes of one that was left alone.
fn goes_on(bench: &Bench, kind: &erw::runner::kind::StageKind, inputs: &[(&str, &Path)], given: &Value) -> Result<()> {
    let calm = bench.run("calm", kind, inputs, given.clone())?;
    let output = calm.file_name().unwrap().to_str().unwrap();
    assert!(shards(&calm).len() > 1, "one shard does not show it");
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    let stopped = bench.attempt("torn", kind, inputs, given, &ear).unwrap_err();
    assert_eq!(stopped.kind, ErrorKind::Suspended);
    let left = bench.path("torn/checkpoints").join(output);
    let names: Vec<String> = files(&left).into_iter().map(|f| f.0).collect();
    assert_eq!(names, [format!("{output}-00000.safetensors")]);
    let first = fs::read(left.join(&names[0])).unwrap();
    fs::write(left.join(format!("{output}-00001.safetensors")), &first[..first.len() / 2]).unwrap();
    let ear = Ear::default();
    bench.attempt("torn", kind, inputs, given, &ear)?;
    assert!(ear.text().contains("\"resumed\""), "{}", ear.text());
    assert!(files(&bench.path("torn/attempt-1").join(output)) == files(&calm));

    Ok(())
}

/// A damaged first shard that an attempt left is made again.
fn heals(bench: &Bench, kind: &erw::runner::kind::StageKind, inputs: &[(&str, &Path)], given: &Value) -> Result<()> {
    let calm = bench.run("whole", kind, inputs, given.clone())?;
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    bench.attempt("damaged", kind, inputs, given, &ear).unwrap_err();
    let output = calm.file_name().unwrap().to_str().unwrap();
    let first = bench.path("damaged/checkpoints").join(format!("{output}/{output}-00000.safetensors"));
    let bytes = fs::read(&first).unwrap();
    fs::write(&first, &bytes[..bytes.len() - 1]).unwrap();
    bench.attempt("damaged", kind, inputs, given, &Ear::default())?;
    assert!(files(&bench.path("damaged/attempt-1").join(output)) == files(&calm));
    Ok(())
}

#[test]
fn latents_resume_between_shards() -> Result<()> {
    let bench = Bench::new();
    let [images, vae, _] = made_here(&bench)?;
    let inputs = [("images", images.as_path()), ("vae", vae.as_path())];
    let given = json!({"rows_per_shard": 90, "batch": 32});
    goes_on(&bench, &stages::data::latents::KIND, &inputs, &given)?;
    heals(&bench, &stages::data::latents::KIND, &inputs, &given)
}

/// Shards of features are large, so the tokens have to be many.
#[test]
fn features_resume_between_shards() -> Result<()> {
    let bench = Bench::new();
    let source = std::env::current_dir().unwrap().join("pipelines/data/digits");
    let given = json!({"source": source, "resolution": 32, "transform": "resize-bicubic", "limit": 52});
    let images = bench.run("images", &stages::data::images::KIND, &[], given)?;
    let vit = json!({"image_size": 32, "patch_size": 2, "dim": 128, "depth": 1, "heads": 1, "mlp_dim": 8,
        "class_token": false, "layer_scale": false, "exact_gelu": true, "final_norm": true, "eps": 1e-6});
    let (params, vb) = ParamSet::init(3, DType::F32, &CPU);
    erw::ml::models::vit::Vit::new(&serde_json::from_value(vit.clone()).unwrap(), vb)?;
    let encoder = bench.path("encoder");
    write(
        &encoder.join("config.json"),
        json!({"vit": vit, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}).to_string(),
    );
    params::save(&params.tensors(), &encoder.join("encoder.safetensors"))?;
    let inputs = [("images", images.as_path()), ("encoder", encoder.as_path())];
    goes_on(&bench, &stages::data::features::KIND, &inputs, &json!({}))
}

#[test]
fn imports_resume_between_shards() -> Result<()> {
    let bench = Bench::new();
    let (images, latents) = five(&bench);
    let given = json!({"source": latents, "images": images, "rows_per_shard": 2, "batch": 1});
    goes_on(&bench, &stages::data::import_latents::KIND, &[], &given)?;
    heals(&bench, &stages::data::import_latents::KIND, &[], &given)
}

proptest! {
    #[test]
    fn random_npy_files_do_not_panic(at in 0..192usize, new in prop::collection::vec(any::<u8>(), 1..6), cut in 0..400usize) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = npy_f32(&[4, 2, 2], &[0.5; 16]);
        let end = (at + new.len()).min(bytes.len());
        bytes.splice(at.min(end)..end, new);
        bytes.truncate(cut.max(10));
        write(&dir.path().join("x0.npy"), bytes);
        write(&dir.path().join("dataset.json"), "{\"labels\": [[\"x0.npy\", 3]]}");
        let images = dir.path().join("images");
        write(&images.join("0.png"), "");
        for images in [None, Some(ImageListing::open(&images, None, None).unwrap())] {
            if let Ok(latents) = ReadyLatents::open(dir.path(), images.as_ref()) {
                drop(latents.rows(0..latents.len()));
            }
        }
    }
}

fn values(t: &Tensor) -> candle_core::Result<Vec<f32>> {
    t.flatten_all()?.to_vec1()
}

/// LightningDiT's folder of latents with so many channels, and their statistics.
fn with_statistics(dir: &Path, channels: usize) -> Result<()> {
    fs::create_dir_all(dir).unwrap();
    let latents = (normals(6, 1, &[channels, 8, 8]) * 3.0)?;
    let labels = Tensor::from_iter((0..6i64).map(|k| k % 3), &CPU)?;
    let shard = Tensors::from([("latents".into(), latents), ("labels".into(), labels)]);
    params::save(&shard, &dir.join("latents_rank00_shard000.safetensors"))?;
    statistics(&dir.join("latents_stats.pt"), channels, 3.0)
}

/// A mean of 0.5 and a deviation, of the shapes that LightningDiT writes.
fn statistics(file: &Path, channels: usize, std: f32) -> Result<()> {
    let row = |value: f32| Tensor::full(value, (1, channels, 1, 1), &CPU);
    let stats = Tensors::from([("mean".into(), row(0.5)?), ("std".into(), row(std)?)]);
    Ok(torch_write::save(file, &[("", &stats)])?)
}

#[test]
fn latents_are_normalised_by_channel_from_the_import_to_the_decoder() -> Result<()> {
    let bench = Bench::new();
    let source = bench.path("va");
    with_statistics(&source, 6)?;
    let import = |name: &str, given: Value| bench.run(name, &stages::data::import_latents::KIND, &[], given);
    let latents = import("latents", json!({"source": source}))?;
    let meta = Packed::open(&latents)?.meta().clone();
    assert_eq!((&meta["scaling_factor"], &meta["latents_std"]), (&json!(1.0), &json!(vec![3.0; 6])));
    assert_eq!(meta["latents_mean"], json!(vec![0.5; 6]));
    let opened = Latents::open(&latents)?;
    let drawn = opened.draw(&[4], &[false], &Tensor::zeros((1, 6, 8, 8), DType::F32, &CPU)?)?;
    let expected = ((normals(6, 1, &[6, 8, 8]).narrow(0, 4, 1)? * 3.0)? - 0.5)?.affine(1.0 / 3.0, 0.0)?;
    assert!((drawn - expected)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()? < 1e-6);

    let tiny = json!({"model": "custom", "hidden": 24, "blocks": 2, "heads": 2, "patch_size": 2, "projector_dim": 16,
        "encoder_depth": 1, "batch": 4, "steps": 3, "ema_decay": 0.5, "alignment": "none"});
    let train = |name: &str, latents: &Path| {
        bench.run(name, &stages::training::train::KIND, &[("latents", latents)], tiny.clone())
    };
    let sit = train("train", &latents)?;
    let factor = json!({"source": source, "normalization": "factor", "scaling_factor": 0.7, "shift_factor": 0.1});
    let by_factor = import("by factor", factor)?;
    assert_eq!(Packed::open(&by_factor)?.meta()["scaling_factor"], 0.7);
    let other = train("other", &by_factor)?;

    // The autoencoder, with its statistics and without.
    let golden = params::load(Path::new("tests/golden/autoencoders/attention.safetensors"), &CPU)?;
    let weights = golden.into_iter().filter_map(|(k, v)| Some((k.strip_prefix("w/")?.to_string(), v))).collect();
    let (file, config) = (bench.path("vae.safetensors"), bench.path("config.json"));
    params::save(&weights, &file)?;
    write(
        &config,
        r#"{"in_channels": 3, "out_channels": 3, "latent_channels": 6, "block_out_channels": [8, 16],
        "layers_per_block": 2, "norm_num_groups": 4, "scaling_factor": 0.7, "shift_factor": 0.1,
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]}"#,
    );
    let vae = |name: &str, stats: Option<PathBuf>| {
        let mut given = json!({"as": "vae", "source": file, "config": config, "url": null});
        given["latents_stats"] = json!(stats);
        bench.run(name, &stages::data::weights::KIND, &[], given)
    };
    let with = vae("with", Some(source.join("latents_stats.pt")))?;
    let stated: VaeConfig = serde_json::from_slice(&fs::read(with.join("config.json")).unwrap()).unwrap();
    assert_eq!((stated.scaling_factor, stated.shift_factor, stated.latents_std), (1.0, None, Some(vec![3.0; 6])));
    let without = vae("without", None)?;
    statistics(&bench.path("others.pt"), 6, 2.0)?;
    let others = vae("others", Some(bench.path("others.pt")))?;
    statistics(&bench.path("few.pt"), 4, 2.0)?;
    let error = vae("few", Some(bench.path("few.pt"))).unwrap_err();
    assert!(error.message.contains("few.pt") && format!("{error:?}").contains("6 channels"), "{error:?}");

    let sample = |name: &str, sit: &Path, vae: &Path| {
        let inputs = [("sit", sit), ("vae", vae)];
        bench.run(name, &stages::sampling::sample::KIND, &inputs, json!({"count": 4, "steps": 2}))
    };
    assert_eq!(ImageSet::open(&sample("samples", &sit, &with)?)?.len(), 4);
    assert_eq!(ImageSet::open(&sample("plain", &other, &without)?)?.len(), 4);
    for (sit, vae, cause) in [
        (&sit, &without, "there are no statistics"),
        (&other, &with, "it was trained on latents that were not"),
        (&sit, &others, "by other statistics"),
    ] {
        let error = sample("refused", sit, vae).unwrap_err();
        assert!(error.message.contains(cause), "{error}");
    }
    Ok(())
}

#[test]
fn statistics_that_would_mislead_are_refused_or_told() -> Result<()> {
    let bench = Bench::new();
    let four = bench.path("four");
    with_statistics(&four, 4)?;
    let kind = &stages::data::import_latents::KIND;
    let sd = bench.run("sd", kind, &[], json!({"source": four}))?;
    assert_eq!(Packed::open(&sd)?.meta()["scaling_factor"], 0.18215);
    assert!(bench.said("sd").contains("latents_stats.pt is not used: latents of 4 channels"));
    // Latents of a deviation of 3, and the same without the factor.
    assert!(!bench.said("sd").contains("warning: after scaling"), "{}", bench.said("sd"));
    bench.run("unscaled", kind, &[], json!({"source": four, "scaling_factor": 1.0}))?;
    assert!(bench.said("unscaled").contains("warning: after scaling"), "{}", bench.said("unscaled"));
    let asked = bench.run("asked", kind, &[], json!({"source": four, "normalization": "channel"}))?;
    assert_eq!(Packed::open(&asked)?.meta()["latents_std"], json!(vec![3.0; 4]));

    statistics(&four.join("latents_stats.pt"), 3, 1.0)?;
    let error = bench.run("few", kind, &[], json!({"source": four, "normalization": "channel"})).unwrap_err();
    assert!(error.message.contains("latents_stats.pt` does not fit the latents"), "{error:?}");
    write(&four.join("latents_stats.pt"), "no file of torch");
    assert!(bench.run("damaged", kind, &[], json!({"source": four, "normalization": "channel"})).is_err());
    fs::remove_file(four.join("latents_stats.pt")).unwrap();
    let text = failure(&bench, json!({"source": four, "normalization": "channel"}));
    assert!(text.contains("has no latents_stats.pt"), "{text}");
    let scaled = bench.path("release");
    release(&scaled)?;
    let text = failure(&bench, json!({"source": scaled, "normalization": "channel"}));
    assert!(text.contains("already scaled"), "{text}");
    Ok(())
}
