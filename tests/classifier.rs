//! The stages on images, end to end on coloured squares: autoencoder, latents, classifier, accuracy.

use candle_core::{DType, Device, Result, Tensor};
use erw::error::ErrorKind;
use erw::ml::augment;
use erw::ml::data::packed::{Packed, PackedWriter};
use erw::ml::models::classifier::{Classifier, ClassifierConfig};
use erw::ml::models::features::open_feature_network;
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::weights::{ParamSet, Tensors};
use erw::runner::attempt::{Attempt, Job};
use erw::runner::manifest::{Params, StageKind};
use erw::stages;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Square images of 8 pixels: class 0 dark above and light below, class 1 the other way round, shaded by index.
fn images(dir: &Path, n: u64) -> Result<()> {
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
    writer.finish(&json!({"height": 8, "width": 8, "classes": ["below", "above"]}))?;
    Ok(())
}

fn values(value: Value) -> Params {
    let Value::Object(map) = value else { panic!("values are an object") };
    map.into_iter().collect()
}

/// A job in `space/NAME` with inputs from other jobs' outputs.
fn job(space: &Path, name: &str, params: Value, operation: Value, inputs: &[(&str, &str)]) -> Job {
    let work_dir = space.join(name);
    std::fs::create_dir_all(work_dir.join("checkpoints")).expect("a work directory");
    Job {
        stage: name.into(),
        kind: name.into(),
        key: String::new(),
        params: values(params),
        operation: values(operation),
        inputs: inputs.iter().map(|(slot, path)| (slot.to_string(), space.join(path))).collect(),
        outputs: Default::default(),
        work_dir,
        threads: 1,
        device: "cpu".into(),
        command: None,
        pipeline_dir: space.to_path_buf(),
    }
}

fn run(kind: StageKind, job: Job) {
    (kind.check)(&job.params, &job.operation).expect("sound parameters");
    (kind.run)(&Attempt::quiet(job)).expect("the stage succeeds");
}

fn trainer(extra: Value) -> Value {
    let mut all = json!({"seed": 0, "steps": 40, "batch": 8, "lr": 5e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8,
        "weight_decay": 0.0, "max_grad_norm": 1.0, "ema_decay": 0.8});
    let (Value::Object(all_map), Value::Object(extra)) = (&mut all, extra) else { panic!("two objects") };
    all_map.extend(extra);
    all
}

fn vae_job(space: &Path, name: &str) -> Job {
    let params = trainer(json!({"block_out_channels": [4, 8], "layers_per_block": 1, "latent_channels": 2,
        "norm_num_groups": 2, "mid_block_add_attention": false, "reconstruction": "l1", "kl_weight": 1e-4,
        "measure_images": 16}));
    job(space, name, params, json!({"checkpoint_every": 7, "log_every": 10}), &[("images", "images")])
}

fn stopped(kind: StageKind, job: Job) {
    let stop = Arc::new(AtomicBool::new(true));
    let error = (kind.run)(&Attempt::new(job, Box::new(std::io::sink()), stop)).expect_err("put down");
    assert_eq!(error.kind, ErrorKind::Suspended);
}

fn numbers(t: &Tensor) -> Result<Vec<f32>> {
    t.flatten_all()?.to_vec1()
}

#[test]
fn images_to_scaled_latents() -> Result<()> {
    let space = tempfile::tempdir()?;
    let space = space.path();
    images(&space.join("images"), 25)?;
    run(stages::train_vae::KIND, vae_job(space, "vae"));
    let out = space.join("vae/out/vae");
    assert!(out.join("reconstructions.png").exists());

    // Put down after its first step and taken up again, it ends with the same bytes.
    stopped(stages::train_vae::KIND, vae_job(space, "again"));
    run(stages::train_vae::KIND, vae_job(space, "again"));
    for file in ["vae.safetensors", "config.json"] {
        assert_eq!(std::fs::read(out.join(file))?, std::fs::read(space.join("again/out/vae").join(file))?, "{file}");
    }

    let latents = |name: &str, batch: u64| {
        let inputs = [("images", "images"), ("vae", "vae/out/vae")];
        job(space, name, json!({"rows_per_shard": 6}), json!({"batch": batch}), &inputs)
    };
    run(stages::latents::KIND, latents("latents", 4));
    let packed = Packed::open(&space.join("latents/out/latents"))?;
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
    let again = latents("latents-again", 5);
    let shards = again.work_dir.join("checkpoints/shards");
    std::fs::create_dir_all(&shards)?;
    for i in 0..2 {
        let file = format!("latents-{i:05}.safetensors");
        std::fs::copy(space.join("latents/out/latents").join(&file), shards.join(&file))?;
    }
    run(stages::latents::KIND, again);
    let resumed = Packed::open(&space.join("latents-again/out/latents"))?;
    assert_eq!(resumed.len(), 25);
    for (a, b) in mean.iter().zip(numbers(&resumed.all("mean", &Device::Cpu)?)?) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    assert_eq!(resumed.all("labels", &Device::Cpu)?.to_vec1::<i64>()?[..4], [0, 1, 0, 1]);
    Ok(())
}

#[test]
fn classifier_learns_and_judges() -> Result<()> {
    let space = tempfile::tempdir()?;
    let space = space.path();
    images(&space.join("images"), 24)?;
    let sizes = json!({"channels": [4, 8], "features": 12, "norm_num_groups": 2, "shift": 1});
    let operation = json!({"checkpoint_every": 0, "log_every": 10});
    let inputs = [("images", "images"), ("holdout", "images")];
    run(stages::train_classifier::KIND, job(space, "classifier", trainer(sizes), operation, &inputs));
    let inputs = [("samples", "images"), ("classifier", "classifier/out/classifier")];
    run(stages::accuracy::KIND, job(space, "accuracy", json!({}), json!({"batch": 7}), &inputs));
    let text = std::fs::read_to_string(space.join("accuracy/out/metrics/metrics.json"))?;
    let metrics: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(metrics["count"], 24);
    assert_eq!(metrics["value"], 1.0, "{text}");
    assert_eq!(metrics["confusion"], json!([[12, 0], [0, 12]]));
    assert_eq!(metrics["per_class"], json!([1.0, 1.0]));

    let dir = space.join("classifier/out/classifier");
    let net = open_feature_network(&dir, &Device::Cpu)?;
    let image = Tensor::zeros((3, 3, 8, 8), DType::U8, &Device::Cpu)?;
    assert_eq!((net.name(), net.dim(), net.features(&image)?.dims()), ("classifier", 12, &[3usize, 12][..]));
    std::fs::write(dir.join("config.json"), r#"{"arch": "resnet"}"#)?;
    let error = open_feature_network(&dir, &Device::Cpu).err().expect("an error").to_string();
    assert!(error.contains("`resnet`") && error.contains("classifier"), "{error}");
    Ok(())
}

/// Logits are the head on the features, and every parameter is named as in the file.
#[test]
fn classifier_shapes() -> Result<()> {
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
fn shifts_move_whole_images_within_reach() -> Result<()> {
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
