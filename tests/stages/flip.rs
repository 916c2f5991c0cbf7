//! Horizontal flips: training with all images flipped equals training on flipped images, bit for
//! bit; unusable flips are refused.

use crate::stages::online_features::{Lab, assert_same_artifact, pack};
use crate::support::bench::Ear;
use candle_core::{DType, Device, Tensor};
use erw::error::ErrorKind;
use erw::ml::data::packed::Packed;
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::nn::params;
use erw::ml::nn::params::ParamSet;
use erw::stages::data::latents;
use erw::stages::training::{train, warmup};
use serde_json::json;
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;

/// The lab's images as `mirrored`, and an autoencoder.
fn lab() -> Lab {
    let lab = Lab::new();
    let images = Packed::open(&lab.path("images")).unwrap();
    let pixels = images.all("images", &CPU).unwrap();
    let width = pixels.dim(2).unwrap() as u32;
    let from_right = Tensor::from_iter((0..width).rev(), &CPU).unwrap();
    let rows =
        [("images", pixels.index_select(&from_right, 2).unwrap()), ("labels", images.all("labels", &CPU).unwrap())];
    pack(&lab.path("mirrored"), "images", &rows, &json!({"classes": ["zero", "one", "two"]}));
    let config = VaeConfig::rgb(&[8, 8], 1, 4, 4, false);
    let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
    AutoencoderKl::new(&config, vb).unwrap();
    std::fs::create_dir_all(lab.path("vae")).unwrap();
    params::save(&params.tensors(), &lab.path("vae").join("vae.safetensors")).unwrap();
    std::fs::write(lab.path("vae").join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    lab
}

fn encode(lab: &Lab, work: &str, images: &str, flip: bool) -> PathBuf {
    let (images, vae) = (lab.path(images), lab.path("vae"));
    let inputs: [(&str, &Path); 2] = [("images", &images), ("vae", &vae)];
    lab.bench.run(work, &latents::KIND, &inputs, json!({"flip": flip})).unwrap()
}

#[test]
fn training_on_mirrored_images_equals_flip_with_probability_one() {
    let lab = lab();
    let (both, other) = (encode(&lab, "both", "images", true), encode(&lab, "other", "mirrored", false));
    let values = |dir: &Path, tensor: &str| {
        Packed::open(dir).unwrap().all(tensor, &CPU).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    for tensor in ["mean", "std"] {
        let mirrored = values(&both, &format!("{tensor}_flip"));
        assert!(mirrored == values(&other, tensor) && mirrored != values(&both, tensor), "{tensor}");
    }
    let encoder = lab.path("one").join("attempt-1/encoder");
    let inputs = |latents: &Path, images: &str| {
        vec![("latents", latents.to_path_buf()), ("images", lab.path(images)), ("encoder", encoder.clone())]
    };
    for kind in [&warmup::KIND, &train::KIND] {
        let run = |work: &str, latents: &Path, images: &str, flip: f64| {
            lab.run(&format!("{work} {}", kind.name), kind, &inputs(latents, images), json!({"flip": flip}))
        };
        assert_same_artifact(&run("all", &both, "images", 1.0), &run("mirrored", &other, "mirrored", 0.0));
        // A half of them is neither all nor none.
        let ema = |dir: PathBuf| std::fs::read(dir.join("ema.safetensors")).unwrap();
        let half = ema(run("half", &both, "images", 0.5));
        assert!(half != ema(run("all again", &both, "images", 1.0)));
        assert!(half != ema(run("none", &both, "images", 0.0)));
    }
}

#[test]
fn a_flip_without_mirrored_features_is_refused() {
    let lab = lab();
    let flip = json!({"flip": 0.5});
    let error = lab.attempt("stored", &train::KIND, &lab.stored(&["one"]), flip.clone(), &Ear::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
    assert_eq!(error.message, "`flip` is 0.5, but stored features do not include mirrored images");
    let error = lab.attempt("online", &warmup::KIND, &lab.online(&["one"]), flip, &Ear::default()).unwrap_err();
    assert_eq!(error.message, "`flip` is 0.5, but input `latents` has no latents of mirrored images");
    assert_eq!(error.hints, ["set `flip = true` on the stage that makes them"]);
    // Without alignment no features are needed.
    let both = encode(&lab, "both", "images", true);
    lab.run("alone", &train::KIND, &vec![("latents", both)], json!({"flip": 0.5, "alignment": "none"}));
}
