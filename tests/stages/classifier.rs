//! The image stages end to end on coloured squares: autoencoder, latents, classifier, accuracy.

use crate::support::bench::{Bench, Ear};
use candle_core::{DType, Device, Result, Tensor};
use erw::error::ErrorKind;
use erw::ml::data::augment;
use erw::ml::data::packed::{Packed, PackedWriter};
use erw::ml::models::classifier::{Classifier, ClassifierConfig};
use erw::ml::models::feature_network::open::open_feature_network;
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::nn::params::{ParamSet, Tensors};
use erw::stages;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::Ordering;

/// Square images of 8 pixels: class 0 dark above and light below, class 1 the other way round,
/// shaded by index.
fn images(dir: &Path, n: u64) -> Result<()> {
    images_of(dir, n, &["below", "above"])
}

/// The same with other names of classes.
fn images_of(dir: &Path, n: u64, classes: &[&str]) -> Result<()> {
    let mut writer = PackedWriter::create(dir, "images", 10)?;
    for i in 0..n {
        let (class, shade) = (i % 2, (i * 7 % 50) as u8);
        let pixel = |y: usize| if (y < 4) == (class == 0) { shade } else { 200 + shade };
        let data: Vec<u8> = (0..8).flat_map(|y| [pixel(y); 24]).collect();
        let rows: Tensors = [
            ("images".to_string(), Tensor::from_vec(data, (1, 8, 8, 3), &Device::Cpu)?),
            ("labels".to_string(), Tensor::new(&[class as i64], &Device::Cpu)?),
        ]
        .into();
        writer.push(&rows)?;
    }
    writer.finish(&json!({"height": 8, "width": 8, "classes": classes}))?;
    Ok(())
}

/// What every trainer here is given, and more.
fn trainer(more: Value) -> Value {
    let mut all = json!({"steps": 40, "batch": 8, "lr": 5e-3, "ema_decay": 0.8});
    all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    all
}

fn numbers(t: &Tensor) -> Result<Vec<f32>> {
    t.flatten_all()?.to_vec1()
}

#[test]
fn images_to_scaled_latents() -> Result<()> {
    let bench = Bench::new();
    let set = bench.path("images");
    images(&set, 25)?;
    let given = trainer(json!({"block_out_channels": [4, 8], "latent_channels": 2, "norm_num_groups": 2,
        "mid_block_add_attention": false, "measure_images": 16, "checkpoint_every": 7}));
    let inputs = [("images", set.as_path())];
    let vae = |name: &str| bench.run(name, &stages::training::train_vae::KIND, &inputs, given.clone()).expect("trains");
    let out = vae("vae");
    assert!(out.join("reconstructions.png").exists());

    // Put down after its first step and taken up again, it ends with the same bytes.
    let stopped = Ear::default();
    stopped.stop.store(true, Ordering::Relaxed);
    let error =
        bench.attempt("again", &stages::training::train_vae::KIND, &inputs, &given, &stopped).expect_err("put down");
    assert_eq!(error.kind, ErrorKind::Suspended);
    let again = vae("again");
    for file in ["vae.safetensors", "config.json"] {
        assert_eq!(std::fs::read(out.join(file))?, std::fs::read(again.join(file))?, "{file}");
    }

    let inputs = [("images", set.as_path()), ("vae", out.as_path())];
    let latents = |name: &str, batch: u64| {
        let given = json!({"rows_per_shard": 6, "batch": batch});
        bench.run(name, &stages::data::latents::KIND, &inputs, given).expect("encodes")
    };
    let encoded = latents("latents", 4);
    let packed = Packed::open(&encoded)?;
    assert_eq!((packed.len(), packed.shape("mean")?, packed.shape("std")?), (25, vec![2, 4, 4], vec![2, 4, 4]));
    let config = VaeConfig::read(&out.join("config.json"))?;
    assert_eq!(packed.meta()["scaling_factor"].as_f64(), Some(config.scaling_factor));
    assert_eq!(packed.meta()["channels"], 2);

    // Scaled posterior samples have unit spread: variance of means plus mean variance.
    let (mean, std) = (numbers(&packed.all("mean", &Device::Cpu)?)?, numbers(&packed.all("std", &Device::Cpu)?)?);
    let n = mean.len() as f32;
    let average = mean.iter().sum::<f32>() / n;
    let spread =
        mean.iter().map(|m| (m - average).powi(2)).sum::<f32>() / n + std.iter().map(|s| s * s).sum::<f32>() / n;
    let scaled = spread.sqrt() * config.scaling_factor as f32;
    assert!((scaled - 1.0).abs() < 0.05, "spread after scaling {scaled}");

    // The decoder undoes the encoder, roughly: dark and light stay apart.
    let vae = AutoencoderKl::load(&out, &Device::Cpu)?;
    let image = vae.decode(&packed.rows("mean", &[0], &Device::Cpu)?)?;
    let half = |from: usize| image.narrow(2, from, 4)?.mean_all()?.to_scalar::<f32>();
    assert!(half(0)? < half(4)? - 0.5, "{} {}", half(0)?, half(4)?);

    // Any batch and any resume give the same numbers: the first two shards are left from before.
    let shards = bench.path("latents-again/checkpoints/latents");
    std::fs::create_dir_all(&shards)?;
    for i in 0..2 {
        let file = format!("latents-{i:05}.safetensors");
        std::fs::copy(encoded.join(&file), shards.join(&file))?;
    }
    let resumed = Packed::open(&latents("latents-again", 5))?;
    assert_eq!(resumed.len(), 25);
    for (a, b) in mean.iter().zip(numbers(&resumed.all("mean", &Device::Cpu)?)?) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    assert_eq!(resumed.all("labels", &Device::Cpu)?.to_vec1::<i64>()?[..4], [0, 1, 0, 1]);
    Ok(())
}

#[test]
fn a_classifier_learns_and_measures_accuracy() -> Result<()> {
    let bench = Bench::new();
    let set = bench.path("images");
    images(&set, 24)?;
    let given = trainer(json!({"channels": [4, 8], "features": 12, "norm_num_groups": 2, "shift": 1}));
    let inputs = [("images", set.as_path()), ("holdout", &set)];
    let dir = bench.run("classifier", &stages::training::train_classifier::KIND, &inputs, given).expect("trains");
    let inputs = [("samples", set.as_path()), ("classifier", &dir)];
    let out = bench.run("accuracy", &stages::evaluation::accuracy::KIND, &inputs, json!({"batch": 7})).expect("judges");
    let text = std::fs::read_to_string(out.join("metrics.json"))?;
    let metrics: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(metrics["count"], 24);
    assert_eq!(metrics["value"], 1.0, "{text}");
    assert_eq!(metrics["confusion"], json!([[12, 0], [0, 12]]));
    assert_eq!(metrics["per_class"], json!([1.0, 1.0]));

    let net = open_feature_network(&dir, None, &Device::Cpu)?;
    let image = Tensor::zeros((3, 3, 8, 8), DType::U8, &Device::Cpu)?;
    assert_eq!((net.name(), net.dim(), net.features(&image)?.dims()), ("classifier", 12, &[3usize, 12][..]));
    std::fs::write(dir.join("config.json"), r#"{"arch": "resnet"}"#)?;
    let error = open_feature_network(&dir, None, &Device::Cpu).err().expect("an error").to_string();
    assert!(error.contains("`resnet`") && error.contains("classifier"), "{error}");
    Ok(())
}

#[test]
fn a_held_out_set_of_other_classes_is_refused() -> Result<()> {
    let bench = Bench::new();
    let set = bench.path("images");
    images(&set, 8)?;
    let sets: [(&str, &[&str], bool); 5] = [
        ("same", &["below", "above"], true),
        ("numbers", &["0", "1"], true),
        ("more", &["below", "above", "beside"], true),
        ("turned", &["above", "below"], false),
        ("others", &["above", "aside"], false),
    ];
    let network = trainer(json!({"channels": [4, 8], "features": 12, "norm_num_groups": 2, "steps": 1}));
    let vit = json!({"dim": 16, "heads": 2, "depth": 1, "patch_size": 4, "steps": 1, "batch": 8, "neighbours": 3});
    for (name, classes, fits) in sets {
        let held = bench.path(name);
        images_of(&held, 6, classes)?;
        let inputs = [("images", set.as_path()), ("holdout", held.as_path())];
        for (kind, given) in
            [(&stages::training::train_classifier::KIND, &network), (&stages::training::train_encoder::KIND, &vit)]
        {
            let ran = bench.run(&format!("{name}-{}", kind.name), kind, &inputs, given.clone());
            match ran {
                Ok(_) => assert!(fits, "{name} {}", kind.name),
                Err(e) => {
                    let text =
                        format!("input `holdout` has the classes {}, but input `images` has", classes.join(", "));
                    assert!(!fits && e.message.starts_with(&text), "{name} {}: {e:?}", kind.name);
                    assert!(e.hints[0].contains("both sets must have the same"), "{e:?}");
                }
            }
        }
    }
    Ok(())
}

/// Logits are the head on the features, and every parameter is named as in the file.
#[test]
fn classifier_outputs_and_parameters_have_their_shapes() -> Result<()> {
    let (params, vb) = ParamSet::init(0, DType::F32, &Device::Cpu);
    let config = ClassifierConfig {
        arch: Classifier::ARCH.into(),
        channels: vec![4, 6],
        features: 10,
        norm_num_groups: 2,
        classes: vec!["a".into(), "b".into(), "c".into()],
        height: 9,
        width: 7,
    };
    let net = Classifier::new(&config, vb)?;
    let x = Tensor::zeros((2, 3, 9, 7), DType::F32, &Device::Cpu)?;
    assert_eq!(net.features(&x)?.dims(), [2, 10]);
    assert_eq!(net.logits(&x)?.dims(), [2, 3]);
    assert_eq!(params.len(), 3 * 4 + 2);
    assert!(ClassifierConfig { features: 9, ..config }.check().is_err());
    Ok(())
}

#[test]
fn shifts_move_whole_images_within_the_limit() -> Result<()> {
    // Pixel (y, x) holds 10 y + x, so a moved image tells where it came from.
    let data: Vec<u8> = (0..3).flat_map(|_| (0..6u8).flat_map(|y| (0..5u8).map(move |x| 10 * y + x))).collect();
    let one = Tensor::from_vec(data, (1, 3, 6, 5), &Device::Cpu)?;
    let samples: Vec<u64> = (0..64).collect();
    let images = one.repeat((64, 1, 1, 1))?;
    let moved = augment::shift(&images, 2, 1, 3, &samples)?;
    let mut seen = std::collections::BTreeSet::new();
    for i in 0..64 {
        let m = moved.get(i)?.to_vec3::<u8>()?;
        assert!(m[0] == m[1] && m[1] == m[2], "channels move together");
        let (dy, dx) = (i32::from(m[0][2][2] / 10) - 2, i32::from(m[0][2][2] % 10) - 2);
        for (y, row) in m[0].iter().enumerate() {
            for (x, v) in row.iter().enumerate() {
                let at = |p: usize, d: i32, n: i32| (p as i32 + d).clamp(0, n - 1);
                assert_eq!(i32::from(*v), 10 * at(y, dy, 6) + at(x, dx, 5));
            }
        }
        seen.insert((dy, dx));
    }
    assert!(seen.len() > 15 && seen.iter().all(|(a, b)| a.abs() <= 2 && b.abs() <= 2), "{seen:?}");
    assert_eq!(numbers_u8(&augment::shift(&images, 0, 1, 3, &samples)?)?, numbers_u8(&images)?);
    let part = augment::shift(&one, 2, 1, 3, &[17])?;
    assert_eq!(numbers_u8(&part)?, numbers_u8(&moved.narrow(0, 17, 1)?)?, "a function of the sample");
    Ok(())
}

fn numbers_u8(t: &Tensor) -> Result<Vec<u8>> {
    t.flatten_all()?.to_vec1()
}
