//! FID's Inception equals its port in pytorch-fid, refuses what is not its weights, and makes a
//! `fid`.

use candle_core::{DType, Device, Result, Tensor};
use erw::ml::models::feature_network::mode::Mode;
use erw::ml::models::feature_network::open::open_feature_network;
use erw::ml::models::feature_network::{FeatureNetwork, Outputs};
use erw::ml::models::inception;
use erw::ml::models::inception::Inception;
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use erw::ml::viz::picture::write_npz;
use erw::stages;
use serde_json::{Value, json};
use std::fs;
use std::sync::OnceLock;

use crate::support::bench::Bench;
use crate::support::golden::{Golden, hashed};

const CPU: Device = Device::Cpu;

/// Weights by the recipe in the golden manifest, made once. Names and shapes are the network's own;
/// that they are those of pytorch-fid is checked by count and, through the numbers hashed from each
/// name, by the golden outputs.
pub fn recipe() -> &'static Tensors {
    static TENSORS: OnceLock<Tensors> = OnceLock::new();
    TENSORS.get_or_init(|| {
        let (_, shapes) = params::census(|vb| Inception::new(Mode::Adm, vb)).unwrap();
        let tensor = |(name, shape): (String, candle_core::Shape)| {
            let u = Tensor::from_vec(hashed(&name, shape.elem_count()), shape.clone(), &CPU)?;
            let fan_in: usize = shape.dims()[1..].iter().product();
            let tensor = match shape.rank() {
                1 if name.ends_with("running_var") => u.affine(0.5, 1.0),
                1 if name.ends_with("bn.weight") => u.affine(0.25, 1.0),
                1 => u * 0.125,
                _ => u * (6.0 / fan_in as f64).sqrt(),
            };
            Ok((name, tensor?))
        };
        shapes.into_iter().map(tensor).collect::<Result<_>>().unwrap()
    })
}

/// max |a - b| / max |b|
fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    assert_eq!(a.dims(), b.dims());
    let largest = |t: &Tensor| t.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>();
    Ok(largest(&(a - b)?)? / largest(b)?)
}

#[test]
fn all_outputs_equal_those_of_pytorch() -> Result<()> {
    let golden = Golden::open("inception");
    let limit = golden.tolerance("out");
    for (tag, mode) in [("tf1", Mode::Adm), ("tf1", Mode::TorchFidelity), ("pytorch", Mode::PytorchFid)] {
        let net = Inception::from_tensors(mode, recipe().clone(), &CPU)?;
        let x = inception::prepare(mode, &golden.get("in/image_u8"))?;
        let Outputs { pool, spatial, logits } = net.forward(&x)?;
        for (what, got, limit) in [
            ("resized_rows0_3", x.narrow(2, 0, 3)?, 1e-6),
            ("pool3", pool, limit),
            ("spatial7", spatial.unwrap(), limit),
            ("logits_nobias", logits.unwrap(), limit),
        ] {
            let off = distance(&got, &golden.get(&format!("out/{tag}_{what}")))?;
            assert!(off <= limit, "{tag} {what} is off by {off:e}");
        }
    }
    Ok(())
}

/// 94 units of six tensors each but for the counter, and the head:
/// `len(fid_inception_v3().state_dict())` is 566.
#[test]
fn a_file_of_pytorch_fid_is_adopted() -> Result<()> {
    let mut file = recipe().clone();
    assert_eq!(file.len(), 94 * 5 + 2);
    let units: Vec<String> = file.keys().filter_map(|k| k.strip_suffix(".bn.bias")).map(str::to_string).collect();
    for unit in &units {
        file.insert(format!("{unit}.bn.num_batches_tracked"), Tensor::new(0i64, &CPU)?);
    }
    assert_eq!(file.len(), 566);
    file.insert("AuxLogits.fc.bias".into(), Tensor::zeros(1008, DType::F32, &CPU)?);
    let adopted = inception::adopt(file)?;
    assert_eq!(adopted.dropped.len(), units.len() + 1);
    assert!(adopted.tensors.keys().eq(recipe().keys()));
    Ok(())
}

#[test]
fn weights_of_other_networks_are_refused() -> Result<()> {
    // `None` takes the tensor out.
    let refused = |name: &str, tensor: Option<Tensor>, expected: &str| {
        let mut tensors = recipe().clone();
        match tensor {
            Some(tensor) => tensors.insert(name.into(), tensor),
            None => tensors.remove(name),
        };
        let error = Inception::from_tensors(Mode::Adm, tensors, &CPU).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused("Mixed_7c.branch_pool.bn.running_var", None, "Mixed_7c.branch_pool.bn.running_var");
    refused("more", Some(Tensor::new(0f32, &CPU)?), "such as more");
    // torchvision's own Inception has another head.
    refused("fc.bias", Some(Tensor::zeros(1000, DType::F32, &CPU)?), "fc.bias has shape [1000]");
    let nan = Tensor::full(f32::NAN, 1008, &CPU)?;
    refused("fc.bias", Some(nan), "tensor fc.bias holds values that are not finite");
    Ok(())
}

#[test]
fn images_of_other_shapes_are_refused() {
    for (shape, dtype) in [(&[0, 3, 0, 8][..], DType::U8), (&[1, 4, 8, 8], DType::U8), (&[1, 3, 8, 8], DType::F32)] {
        for mode in Mode::ALL {
            let error = inception::prepare(mode, &Tensor::zeros(shape, dtype, &CPU).unwrap()).unwrap_err().to_string();
            let told = format!("Inception needs u8 images [n, 3, H, W], got {dtype:?} {shape:?}");
            assert_eq!(error.lines().next(), Some(told.as_str()), "{mode:?}");
        }
    }
}

/// Threads take images by fours, and products are cut by sizes: none of it shows in a result.
#[test]
fn an_image_has_the_same_outputs_in_any_batch() -> Result<()> {
    let net = Inception::from_tensors(Mode::PytorchFid, recipe().clone(), &CPU)?;
    let pixels: Vec<u8> = hashed("batch", 5 * 3 * 12 * 12).iter().map(|u| (u * 100.0 + 128.0) as u8).collect();
    let images = Tensor::from_vec(pixels, (5, 3, 12, 12), &CPU)?;
    let all = net.outputs(&images)?;
    let alone = net.outputs(&images.narrow(0, 4, 1)?)?;
    let numbers = |t: &Tensor, i: usize| t.narrow(0, i, 1)?.flatten_all()?.to_vec1::<f32>();
    assert_eq!(all.pool.dims(), [5, 2048]);
    assert!(numbers(&all.pool, 4)? == numbers(&alone.pool, 0)?);
    assert!(numbers(&all.spatial.unwrap(), 4)? == numbers(&alone.spatial.unwrap(), 0)?);
    assert!(numbers(&all.logits.unwrap(), 4)? == numbers(&alone.logits.unwrap(), 0)?);
    let error = net.outputs(&images.narrow(0, 0, 0)?).unwrap_err().to_string();
    assert_eq!(error.lines().next(), Some("cannot compute features of an empty batch"));
    Ok(())
}

#[test]
fn modes_equal_their_tools() -> Result<()> {
    let none = Tensor::zeros((0, 3, 8, 8), DType::U8, &CPU)?;
    let image = Tensor::arange(0u8, 192, &CPU)?.reshape((1, 3, 8, 8))?;
    for mode in Mode::ALL {
        assert_eq!(inception::prepare(mode, &none)?.dims(), [0, 3, 299, 299]);
        assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
    }
    let pixels = |mode| inception::prepare(mode, &image)?.flatten_all()?.to_vec1::<f32>();
    assert_eq!(pixels(Mode::Adm)?, pixels(Mode::TorchFidelity)?);
    // What a bicubic filter overshoots at edges is clipped: (0 - 128) / 128 is the least there is.
    let dark = pixels(Mode::CleanFid)?.into_iter().fold(f32::MAX, f32::min);
    assert_eq!(dark, -1.0);
    Ok(())
}

/// An artifact of the recipe's weights.
fn artifact(bench: &Bench, config: &Value) -> Result<std::path::PathBuf> {
    let dir = bench.path("inception");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("config.json"), config.to_string())?;
    params::save(recipe(), &dir.join(inception::WEIGHTS_FILE))?;
    Ok(dir)
}

/// `count` images of 32 x 32 pixels as a `samples` artifact.
fn images(bench: &Bench, name: &str, count: usize) -> Result<std::path::PathBuf> {
    let dir = bench.path(name);
    fs::create_dir_all(&dir)?;
    let pixels: Vec<u8> = hashed(name, count * 32 * 32 * 3).iter().map(|u| (u * 100.0 + 128.0) as u8).collect();
    write_npz(&dir.join("samples.npz"), &pixels, 32, 32, &vec![0; count])?;
    Ok(dir)
}

/// Inception and covariances of 2048 features take their time, so it measures once.
#[test]
fn a_distance_by_inception_is_called_fid_and_names_the_preparation() -> Result<()> {
    let bench = Bench::new();
    let network = artifact(&bench, &json!({"arch": "fid-inception", "mode": "adm"}))?;
    let (samples, reference) = (images(&bench, "samples", 2)?, images(&bench, "reference", 3)?);
    let inputs = [("samples", samples.as_path()), ("reference", &reference), ("network", &network)];
    let given = json!({"mode": "pytorch-fid", "metrics": ["fid", "sfid", "is"]});
    let out = bench.run("fid", &stages::evaluation::fid::KIND, &inputs, given).unwrap();
    let metrics: Value = serde_json::from_str(&fs::read_to_string(out.join("metrics.json")).unwrap()).unwrap();
    assert_eq!((&metrics["metric"], &metrics["dim"]), (&json!("fid"), &json!(2048)));
    assert!(metrics["preparation"].as_str().unwrap().starts_with("pytorch-fid"), "{metrics}");
    assert!(metrics["value"].as_f64().unwrap() > 0.0, "{metrics}");
    assert_eq!(bench.result("fid", "fid"), metrics["value"].as_f64());
    // Spatial features and class scores come from the same pass.
    assert!(bench.result("fid", "sfid").is_some_and(|x| x > 0.0), "{metrics}");
    assert!(bench.result("fid", "inception_score").is_some_and(|x| x >= 1.0), "{metrics}");
    Ok(())
}

#[test]
fn configurations_are_checked() -> Result<()> {
    let bench = Bench::new();
    let preparation = |config: Value| -> Result<String> {
        let dir = artifact(&bench, &config)?;
        Ok(open_feature_network(&dir, None, &CPU)?.preparation().to_string())
    };
    assert!(preparation(json!({"arch": "fid-inception"}))?.starts_with("adm"));
    assert!(preparation(json!({"arch": "fid-inception", "mode": "pytorch-fid"}))?.starts_with("pytorch-fid"));
    let error = preparation(json!({"arch": "fid-inception", "mode": "clean"})).unwrap_err().to_string();
    assert!(error.contains("config.json does not describe Inception") && error.contains("clean"), "{error}");
    Ok(())
}
