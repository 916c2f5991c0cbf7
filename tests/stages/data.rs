//! The image stages on the digits and on damaged folders, run as a worker runs them.

use crate::support::arrays::write_arrays;
use crate::support::bench::Bench;
use candle_core::{DType, Device, Tensor};
use erw::error::Result;
use erw::ml::data::images::ImageSet;
use erw::ml::data::packed::{Packed, PackedWriter};
use erw::ml::metrics::stats::Stats;
use erw::ml::models::encoder::Encoder;
use erw::ml::models::feature_network::open::open_feature_network;
use erw::ml::models::sit::SiT;
use erw::ml::models::vit::Vit;
use erw::ml::nn::params;
use erw::ml::nn::params::{ParamSet, Tensors};
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::viz::picture::write_npz;
use erw::stages;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;

fn digits(bench: &Bench, name: &str, split: &str) -> Result<PathBuf> {
    let source = std::env::current_dir().unwrap().join("pipelines/data/digits");
    let given = json!({"source": source, "resolution": 32, "transform": "resize-bicubic", "split": split});
    bench.run(name, &stages::data::images::KIND, &[], given)
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
fn an_unreadable_image_fails_or_is_left_out() -> Result<()> {
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
        bench.run(on_error, &stages::data::images::KIND, &[], given)
    };
    let failed = run("fail").unwrap_err();
    assert!(failed.message.contains("a/2.png") && failed.hints[0].contains("on_error"), "{failed:?}");
    let set = Packed::open(&run("skip")?)?;
    assert_eq!((set.len(), &set.meta()["skipped"]), (2, &json!(1)));
    let nothing =
        bench.run("x", &stages::data::images::KIND, &[], json!({"source": bench.path("skip"), "resolution": 8}));
    let error = nothing.unwrap_err();
    assert!(error.message.contains("holds no images") && error.hints[0].contains("`source`"), "{error:?}");
    Ok(())
}

/// What decoders refuse, panic at or find to be cut short, in every format: named, and left out if
/// so asked.
#[test]
fn damaged_files_of_every_format_are_named_and_skipped() -> Result<()> {
    let bench = Bench::new();
    let odd = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images/odd.safetensors");
    let odd = params::load(&odd, &CPU)?;
    let folder = bench.path("set/a");
    fs::create_dir_all(&folder).unwrap();
    let write = |name: &str| {
        let bytes = odd[name].to_vec1::<u8>().unwrap();
        fs::write(folder.join(name.trim_start_matches("refused/")), bytes).unwrap();
    };
    // Chroma finer than luma, in a scan per component.
    ["112222-scans.jpg", "555.bmp", "plain.gif", "rgb-8-big.tif", "text.pbm"].into_iter().for_each(write);
    let run = |on_error: &str| {
        let given = json!({"source": bench.path("set"), "resolution": 8, "on_error": on_error});
        bench.run(on_error, &stages::data::images::KIND, &[], given)
    };
    assert_eq!(Packed::open(&run("fail")?)?.len(), 5);
    let broken =
        ["refused/cut.jpg", "refused/lossless.jpg", "refused/cut.gif", "refused/cut.tif", "refused/letters.pbm"];
    for name in broken {
        write(name);
        let (failed, file) = (run("fail").unwrap_err(), name.replace("refused/", "a/"));
        assert!(failed.message.contains(&file) && failed.hints[0].contains("on_error"), "{failed:?}");
        fs::remove_file(bench.path("set").join(file)).unwrap();
    }
    broken.into_iter().for_each(write);
    let set = Packed::open(&run("skip")?)?;
    assert_eq!((set.len(), &set.meta()["skipped"], bench.result("skip", "damaged")), (5, &json!(5), None));
    // Read as Pillow reads them, and told.
    ["damaged-codes.jpg", "damaged-restart.jpg"].into_iter().for_each(write);
    assert_eq!(Packed::open(&run("skip")?)?.len(), 7);
    assert_eq!(bench.result("skip", "damaged"), Some(2.0));
    Ok(())
}

#[test]
fn a_broken_image_in_an_archive_is_named() -> Result<()> {
    let bench = Bench::new();
    let archive = bench.path("set.zip");
    let mut zip = zip::ZipWriter::new(fs::File::create(&archive).unwrap());
    for (name, broken) in [("cat/0.png", false), ("cat/1.png", true), ("dog/2.png", false)] {
        let mut bytes = std::io::Cursor::new(vec![]);
        let image = image::RgbImage::from_pixel(6, 6, image::Rgb([9, 8, 7]));
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let bytes = bytes.into_inner();
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(if broken { &bytes[..50] } else { &bytes }).unwrap();
    }
    zip.finish().unwrap();
    let run = |on_error: &str| {
        let given = json!({"source": archive, "resolution": 6, "transform": "none", "on_error": on_error});
        bench.run(on_error, &stages::data::images::KIND, &[], given)
    };
    let failed = run("fail").unwrap_err();
    assert!(failed.message.contains("set.zip!cat/1.png: not a readable image"), "{failed:?}");
    let set = ImageSet::open(&run("skip")?)?;
    assert_eq!((set.labels(), set.classes()), (vec![0, 1], &["cat".to_string(), "dog".into()][..]));
    Ok(())
}

#[test]
fn classes_without_images_are_told() -> Result<()> {
    let bench = Bench::new();
    let image = image::RgbImage::from_pixel(4, 4, image::Rgb([9, 8, 7]));
    let put = |set: &str, names: &[&str]| {
        for name in names {
            let path = bench.path(set).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            image.save(path).unwrap();
        }
        bench.path(set)
    };
    let run = |name: &str, given: Value| {
        let mut all = json!({"resolution": 4, "transform": "none"});
        all.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        bench.run(name, &stages::data::images::KIND, &[], all).map(|_| bench.said(name))
    };
    let flat = put("flat", &["a.png", "b.png", "c.png"]);
    let labels = |text: &str| {
        fs::write(bench.path("labels.csv"), text).unwrap();
        json!({"source": flat, "labels": bench.path("labels.csv")})
    };
    let said = run("from-one", labels("file,label\na,1\nb,2\nc,3\n"))?;
    assert!(said.contains("warning: class `0` of 4 has no images: labels seem to count from 1"), "{said}");
    let said = run("gaps", labels("file,label\na,0\nb,2\nc,200\n"))?;
    assert!(said.contains("warning: 198 of 201 classes have no images: `1`, `3`, `4` and 195 more"), "{said}");
    let said = run("full", labels("file,label\na,0\nb,1\nc,1\n"))?;
    assert!(!said.contains("no images"), "{said}");
    // By the split, and by what cannot be read.
    let names = ["cat/0.png", "cat/1.png", "dog/0.png"];
    let said = run("held", json!({"source": put("pets", &names), "split": "holdout", "holdout_every": 2}))?;
    assert!(said.contains("warning: class `dog` of 2 has no images") && said.contains("holdout_every"), "{said}");
    fs::write(bench.path("pets/dog/0.png"), "no image").unwrap();
    let said = run("skipped", json!({"source": bench.path("pets"), "on_error": "skip"}))?;
    assert!(said.contains("warning: class `dog` of 2 has no images"), "{said}");
    Ok(())
}

#[test]
fn what_a_file_holds_beside_its_pixels_is_logged() -> Result<()> {
    let bench = Bench::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    fs::create_dir_all(bench.path("set/a")).unwrap();
    for name in ["turned-6.jpg", "turned-1.jpg", "turned-8.jpg", "alpha.png"] {
        fs::copy(golden.join(name), bench.path("set/a").join(name)).unwrap();
    }
    let run = |name: &str, orientation: &str| -> Result<String> {
        let given = json!({"source": bench.path("set"), "resolution": 4, "orientation": orientation});
        bench.run(name, &stages::data::images::KIND, &[], given)?;
        Ok(bench.said(name))
    };
    let said = run("ignored", "ignore")?;
    assert!(said.contains("2 images state an orientation (EXIF), which is ignored"), "{said}");
    assert!(said.contains("1 images have transparency, which is dropped"), "{said}");
    assert!(!run("applied", "apply")?.contains("orientation (EXIF)"));
    Ok(())
}

#[test]
fn errors_of_labels_have_hints_about_labels() -> Result<()> {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("set")).unwrap();
    image::RgbImage::new(4, 4).save(bench.path("set/a.png")).unwrap();
    fs::write(bench.path("labels.csv"), "file,label\nb,1\n").unwrap();
    fs::write(bench.path("set/dataset.json"), "{\"labels\": [[\"b.png\", 1]]}").unwrap();
    let run = |given: Value| bench.run("x", &stages::data::images::KIND, &[], given).unwrap_err();
    let listed = run(json!({"source": bench.path("set"), "resolution": 4}));
    fs::remove_file(bench.path("set/dataset.json")).unwrap();
    let tabled = run(json!({"source": bench.path("set"), "labels": bench.path("labels.csv"), "resolution": 4}));
    for (error, hint) in [(listed, "the labels of a set must name every image"), (tabled, "give as `labels` a CSV")] {
        assert!(error.hints[0].contains(hint), "{error:?}");
        assert!(!error.hints.iter().any(|hint| hint.starts_with("`source` must be")), "{error:?}");
    }
    Ok(())
}

#[test]
fn an_encoder_trains_and_its_tokens_are_packed() -> Result<()> {
    let bench = Bench::new();
    let (train, held) = (digits(&bench, "train", "train")?, digits(&bench, "holdout", "holdout")?);
    let tiny = json!({"dim": 16, "heads": 2, "depth": 1, "steps": 3, "batch": 8, "patch_size": 8});
    let inputs = [("images", train.as_path()), ("holdout", held.as_path())];
    let encoder = bench.run("encoder", &stages::training::train_encoder::KIND, &inputs, tiny)?;
    let accuracy = bench.result("encoder", "knn_accuracy").expect("a key metric");
    assert!((0.2..=1.0).contains(&accuracy), "{accuracy}");
    let inputs = [("images", held.as_path()), ("encoder", encoder.as_path())];
    let f32s = bench.run("features", &stages::data::features::KIND, &inputs, json!({}))?;
    let whole = Packed::open(&f32s)?;
    assert_eq!((whole.len(), whole.shape("tokens")?), (ImageSet::open(&held)?.len(), vec![16, 16]));
    let f16s = bench.run("half", &stages::data::features::KIND, &inputs, json!({"dtype": "f16", "batch": 7}))?;
    let half = Packed::open(&f16s)?;
    assert_eq!(half.meta()["dtype"], "f16");
    let last = |p: &Packed| -> Result<Vec<f32>> {
        let row = p.rows("tokens", &[p.len() - 1], &CPU)?;
        Ok(row.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    };
    let near = last(&whole)?.iter().zip(last(&half)?).all(|(a, b)| (a - b).abs() < 4e-3);
    assert!(near);
    Ok(())
}

/// Writes an untrained SiT of 2 blocks for latents `[4, 4, 4]` with 10 classes.
pub fn sit(dir: &Path) -> Result<()> {
    let config = json!({
        "input_size": 4, "in_channels": 4, "patch_size": 2, "hidden": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0,
        "num_classes": 10, "class_dropout": 0.1, "z_dims": [8], "projector_dim": 8, "encoder_depth": 1, "rope": true,
        "qk_norm": false, "warmup_depth": null,
    });
    let parsed = serde_json::from_value(config.clone()).unwrap();
    let (params, vb) = ParamSet::init(3, DType::F32, &CPU);
    let mut tensors = SiT::new(&parsed, vb)?.buffers();
    tensors.extend(params.tensors());
    fs::create_dir_all(dir).unwrap();
    params::save(&tensors, &dir.join("ema.safetensors"))?;
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    Ok(())
}

pub fn normals(n: u64, seed: u64, shape: &[usize]) -> Result<Tensor> {
    Ok(rng::normal_rows(seed, Purpose::Probe, 0, &(0..n).collect::<Vec<_>>(), shape, &CPU)?)
}

pub fn latents(dir: &Path, n: u64) -> Result<()> {
    let mut w = PackedWriter::create(dir, "latents", 100)?;
    // The same four channels at every position, which is what a mean over patches keeps.
    let mean = normals(n, 1, &[4, 1, 1])?.broadcast_as((n as usize, 4, 4, 4))?.contiguous()?;
    let labels: Vec<i64> = (0..n as i64).map(|i| i % 10).collect();
    w.push(&Tensors::from([
        ("std".into(), (mean.ones_like()? * 0.1)?),
        ("mean".into(), mean),
        ("labels".into(), Tensor::from_vec(labels, n as usize, &CPU)?),
    ]))?;
    w.finish(&json!({"scaling_factor": 4.0, "shift_factor": 0.0}))?;
    Ok(())
}

pub fn features(dir: &Path, tokens: &Tensor) -> Result<()> {
    let mut w = PackedWriter::create(dir, "features", 100)?;
    w.push(&Tensors::from([("tokens".into(), tokens.clone())]))?;
    w.finish(&json!({}))?;
    Ok(())
}

#[test]
fn cknna_falls_with_noise_in_the_latents() -> Result<()> {
    let bench = Bench::new();
    let paths = [bench.path("sit"), bench.path("latents"), bench.path("features")];
    sit(&paths[0])?;
    latents(&paths[1], 150)?;
    // Features that are the latents themselves: every block agrees with them where there is no
    // noise.
    features(&paths[2], &normals(150, 1, &[1, 4])?)?;
    let inputs = [("sit", paths[0].as_path()), ("latents", &paths[1]), ("features", &paths[2])];
    let run = |name: &str, given: Value| bench.run(name, &stages::evaluation::cknna::KIND, &inputs, given);
    let given = json!({"timesteps": [0.0, 0.5, 1.0], "clamp": 1.0});
    let out = run("cknna", given.clone())?;
    let metrics: Value = serde_json::from_str(&fs::read_to_string(out.join("metrics.json")).unwrap()).unwrap();
    let scores: Vec<Vec<f64>> = serde_json::from_value(metrics["blocks"].clone()).unwrap();
    assert_eq!((scores.len(), scores[0].len(), &metrics["images"]), (2, 3, &json!(150)));
    for row in &scores {
        assert!(row[0] > 0.3 && row[0] > row[1] && row[1] > row[2] + 0.1 && row[2].abs() < 0.1, "{scores:?}");
    }
    assert_eq!(metrics["value"], json!(scores[0][1].max(scores[1][1])));
    assert!(image::open(out.join("cknna.png")).is_ok() && out.join("cknna.svg").exists());
    // The batch size matters by rounding only.
    let again = run("again", json!({"timesteps": [0.0, 0.5, 1.0], "clamp": 1.0, "batch": 7}))?;
    let again: Value = serde_json::from_str(&fs::read_to_string(again.join("metrics.json")).unwrap()).unwrap();
    let again: Vec<Vec<f64>> = serde_json::from_value(again["blocks"].clone()).unwrap();
    assert!(scores.iter().flatten().zip(again.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-5), "{again:?}");
    assert!(run("own", json!({"label": "own", "k": 3, "images": 40})).is_ok());
    assert!(run("bad", json!({"timesteps": [2.0]})).unwrap_err().message.contains("timestep 2"));
    latents(&paths[1], 149)?;
    assert!(run("short", given).unwrap_err().message.contains("149 latents and 150 rows of input `features`"));
    Ok(())
}

#[test]
fn the_fd_of_a_set_to_itself_is_zero_and_grows_with_damage() -> Result<()> {
    let bench = Bench::new();
    let (train, held) = (digits(&bench, "train", "train")?, digits(&bench, "holdout", "holdout")?);
    let network = {
        let inputs = [("images", train.as_path())];
        bench.run("net", &stages::training::train_classifier::KIND, &inputs, json!({"steps": 2, "batch": 8}))?
    };
    let fd_by = |batch: usize, name: &str, samples: &Path, reference: &Path| -> Result<Value> {
        let inputs = [("samples", samples), ("reference", reference), ("network", network.as_path())];
        let out = bench.run(name, &stages::evaluation::fid::KIND, &inputs, json!({"batch": batch}))?;
        Ok(serde_json::from_str(&fs::read_to_string(out.join("metrics.json")).unwrap()).unwrap())
    };
    let fd = |name: &str, samples: &Path, reference: &Path| fd_by(100, name, samples, reference);
    let held_out = ImageSet::open(&held)?;
    // The same images as samples, and with a grey veil.
    let n = 300;
    let pixels = held_out.batch(&(0..n).collect::<Vec<_>>(), &CPU)?.permute((0, 2, 3, 1))?.contiguous()?;
    let pixels: Vec<u8> = pixels.flatten_all()?.to_vec1()?;
    let veiled: Vec<u8> = pixels.iter().map(|p| p / 2 + 64).collect();
    for (name, pixels) in [("clean", &pixels), ("veiled", &veiled)] {
        fs::create_dir(bench.path(name)).unwrap();
        write_npz(&bench.path(name).join("samples.npz"), pixels, 32, 32, &vec![0; n as usize])?;
    }
    let same = fd("same", &bench.path("clean"), &bench.path("clean"))?;
    assert_eq!((same["metric"].as_str(), &same["n_samples"]), (Some("fd"), &json!(300)));
    let value = |v: &Value| v["value"].as_f64().unwrap();
    assert!(value(&same).abs() < 1e-3, "{same}");
    let (clean, veiled) = (fd("c", &bench.path("clean"), &train)?, fd("v", &bench.path("veiled"), &train)?);
    assert!(value(&same) < value(&clean) && value(&clean) < value(&veiled), "{clean} {veiled}");
    assert_eq!(bench.result("v", "fd"), Some(value(&veiled)));
    assert_eq!(fd_by(7, "w", &bench.path("veiled"), &train)?, veiled, "the batch shows in the result");

    // Statistics in the place of the images that they are of.
    let net = open_feature_network(&network, None, &CPU)?;
    let images = ImageSet::open(&train)?;
    let mut stats = Stats::new(net.dim());
    stats.push(&net.features(&images.batch(&(0..images.len()).collect::<Vec<_>>(), &CPU)?)?)?;
    let (dim, sigma) = (net.dim(), stats.covariance()?);
    let sigma = (0..dim * dim).map(|i| sigma[(i / dim, i % dim)]).collect();
    let published = bench.path("published");
    fs::create_dir(&published).unwrap();
    let file = published.join("stats.npz");
    write_arrays(&file, &[("mu", vec![dim], stats.mean().to_vec()), ("sigma", vec![dim, dim], sigma)]);
    let by_stats = fd("s", &bench.path("veiled"), &published)?;
    let (a, b) = (value(&veiled), value(&by_stats));
    assert!((a - b).abs() < 1e-6 * a, "{veiled} {by_stats}");
    assert_eq!(by_stats["n_reference"], Value::Null);
    write_arrays(&file, &[("mu", vec![2], vec![0.0; 2]), ("sigma", vec![2, 2], vec![0.0; 4])]);
    let error = fd("of-another", &bench.path("clean"), &published).unwrap_err();
    assert!(error.message.contains("has 2 features, but the network makes"), "{}", error.message);
    let inputs = [("samples", train.as_path()), ("reference", &train), ("network", &network)];
    let error = bench.run("resized", &stages::evaluation::fid::KIND, &inputs, json!({"mode": "adm"})).unwrap_err();
    assert!(error.message.contains("only Inception has modes"), "{}", error.message);
    Ok(())
}

#[test]
fn released_weights_are_imported_and_others_refused() -> Result<()> {
    let bench = Bench::new();
    let file = bench.path("model.safetensors");
    let vit = json!({
        "image_size": 8, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "mlp_dim": 16, "class_token": true,
        "layer_scale": true, "exact_gelu": true, "final_norm": true, "eps": 1e-6,
    });
    let (params, vb) = ParamSet::init(3, DType::F32, &CPU);
    Vit::new(&serde_json::from_value(vit.clone()).unwrap(), vb)?;
    params::save(&params.tensors(), &file)?;
    let config = bench.path("config.json");
    fs::write(&config, json!({"vit": vit, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}).to_string()).unwrap();
    let import = |name: &str, source: &Path, more: Value| {
        let mut given = json!({"source": source, "as": "encoder", "config": config, "url": "https://example.org/m"});
        given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bench.run(name, &stages::data::weights::KIND, &[], given)
    };
    let out = import("import", &file, json!({}))?;
    let kept = params::load(&out.join("encoder.safetensors"), &CPU)?;
    assert_eq!(kept.keys().collect::<Vec<_>>(), params.tensors().keys().collect::<Vec<_>>());
    assert_eq!(Encoder::open(&out, &CPU)?.shape(8)?, (4, 8));
    assert_eq!(bench.result("import", "tensors"), Some(params.len() as f64));

    let zeros = "0".repeat(64);
    let error = import("sum", &file, json!({"sha256": zeros})).unwrap_err();
    assert!(error.causes[0].contains("sha256") && error.hints.iter().any(|h| h.contains("example.org")), "{error:?}");
    let error = import("preset", &file, json!({"preset": "dinov2-vit-b", "config": null})).unwrap_err();
    assert!(error.message.contains("does not fit"), "{error:?}");
    assert!(import("both", &file, json!({"preset": "dinov2-vit-b"})).unwrap_err().message.contains("not both"));
    assert!(import("hex", &file, json!({"sha256": "abc"})).unwrap_err().message.contains("64 hexadecimal"));
    let formats: [(&[u8], &str); 4] = [
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"<!DOCTYPE html>", "web page"),
        (b"GGUF....", "GGUF"),
        (b"", "empty"),
    ];
    for (bytes, what) in formats {
        let path = bench.path("other.pth");
        fs::write(&path, bytes).unwrap();
        let error = import("other", &path, json!({})).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(what) && said.contains("other.pth"), "{said}");
    }
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
    assert!(import("cut", &file, json!({})).unwrap_err().to_string().contains("model.safetensors"));
    Ok(())
}
