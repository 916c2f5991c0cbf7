//! Time and memory of the published networks; benches/pytorch/networks.py does the same in PyTorch.
//!
//!     cargo bench --bench networks                      # all
//!     cargo bench --bench networks -- vae-encode images # some
//!
//! Every case runs in a process of its own, so that its peak memory (VmHWM) is its own. Weights are
//! random, because the time does not depend on them. The last column is the rate of the network
//! relative to that of a 2048^3 f32 matrix product in the same process. Operations are counted by
//! definition, so a convolution that needs fewer may exceed 1.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use candle_core::{DType, Device, Result, Shape, Tensor};
use erw::ml::data::decode::orientation::Orientation;
use erw::ml::data::source::{ImageListing, Preparation};
use erw::ml::data::transform::Transform;
use erw::ml::models::encoder::Encoder;
use erw::ml::models::encoder::config::EncoderConfig;
use erw::ml::models::feature_network::FeatureNetwork;
use erw::ml::models::feature_network::mode::Mode;
use erw::ml::models::inception::{Inception, SIDE};
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::models::vit::Vit;
use erw::ml::nn::params;
use erw::ml::nn::params::{Frozen, Tensors};
use erw::ml::rng::{Purpose, normal_rows};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::{best, peak_mib};

const CASES: [&str; 5] = ["dinov2-b", "vae-encode", "vae-decode", "inception", "images"];
const CPU: Device = Device::Cpu;

fn main() {
    support::table(&CASES, "images/s", measure);
}

/// Runs one case: once to warm up, then the best of some.
fn measure(case: &str) -> Result<Value> {
    let (seconds, gflop) = match case {
        "dinov2-b" => {
            let config = EncoderConfig::named("dinov2-vit-b").unwrap();
            let shapes = params::census(|vb| Vit::new(&config.vit, vb))?.1;
            let encoder = Encoder::new(&config, random(shapes)?, &CPU)?;
            // 256 pixels become 224, 16 x 16 patches.
            let images = Tensor::full(100u8, (4, 3, 256, 256), &CPU)?;
            (best(3, || encoder.tokens(&images).map(drop))?, 185.3)
        }
        "vae-encode" | "vae-decode" => {
            let config = VaeConfig::rgb(&[128, 256, 512, 512], 2, 4, 32, true);
            let shapes = params::census(|vb| AutoencoderKl::new(&config, vb))?.1;
            let vae = AutoencoderKl::new(&config, Frozen::new(random(shapes)?).builder(DType::F32, &CPU))?;
            if case == "vae-encode" {
                let image = normal(&[3, 256, 256])?;
                (best(3, || vae.encode(&image).map(drop))?, 272.7)
            } else {
                let latent = normal(&[4, 32, 32])?;
                (best(3, || vae.decode(&latent).map(drop))?, 622.2)
            }
        }
        "inception" => {
            let shapes = params::census(|vb| Inception::new(Mode::Adm, vb))?.1;
            let net = Inception::from_tensors(Mode::Adm, random(shapes)?, &CPU)?;
            // As a metric asks for it: with the preparation of images, which is 2 % of it.
            let images = Tensor::full(100u8, (8, 3, SIDE, SIDE), &CPU)?;
            (best(3, || net.outputs(&images).map(drop))?, 91.4)
        }
        _ => return images(),
    };
    support::rated(seconds, gflop, None)
}

/// The work of the `images` stage on files as ImageNet's: decoding and ADM's centre crop to 256
/// pixels, on all cores.
fn images() -> Result<Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-images");
    let files = image_files(&dir);
    let source = ImageListing::open(&dir, None, None)?;
    let how = Preparation { transform: Transform::CenterCropDhariwal, size: 256, orientation: Orientation::Ignore };
    let seconds = best(3, || (0..source.len()).into_par_iter().try_for_each(|i| source.load(i, &how).map(drop)))?;
    Ok(json!({"seconds": seconds, "per_s": files.len() as f64 / seconds, "peak_mib": peak_mib()}))
}

/// 192 JPEG and 64 PNG files of 500 x 375 pixels, made when they are not there: waves, and noise as
/// of film grain.
fn image_files(dir: &Path) -> Vec<PathBuf> {
    std::fs::create_dir_all(dir).unwrap();
    let paths: Vec<PathBuf> =
        (0..256).map(|i| dir.join(format!("{i:03}.{}", if i % 4 == 3 { "png" } else { "jpg" }))).collect();
    paths.par_iter().enumerate().filter(|(_, path)| !path.exists()).for_each(|(i, path)| {
        let mut grain = 1 + i as u32;
        let picture = image::RgbImage::from_fn(500, 375, |x, y| {
            let wave = |f: f32| 110.0 + 90.0 * (f * x as f32 / 90.0 + i as f32).sin() * (f * y as f32 / 70.0).cos();
            grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (grain >> 28) as f32;
            image::Rgb([1.0, 1.7, 0.6].map(|f| (wave(f) + noise) as u8))
        });
        match path.extension().is_some_and(|e| e == "jpg") {
            true => std::fs::write(path, jpeg(&picture)).unwrap(),
            false => picture.save(path).unwrap(),
        }
    });
    paths
}

/// As Pillow writes it: chroma halved both ways, quality 75.
fn jpeg(picture: &image::RgbImage) -> Vec<u8> {
    let mut encoder = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    encoder.set_size(picture.width() as usize, picture.height() as usize);
    encoder.set_fastest_defaults();
    encoder.set_quality(75.0);
    let mut started = encoder.start_compress(vec![]).unwrap();
    started.write_scanlines(picture.as_raw()).unwrap();
    started.finish().unwrap()
}

fn normal(shape: &[usize]) -> Result<Tensor> {
    normal_rows(0, Purpose::Probe, 0, &[0], shape, &CPU)
}

/// Weights that keep numbers in a sane range: normal by fan-in, vectors (scales, shifts, variances)
/// all 0.5.
fn random(shapes: BTreeMap<String, Shape>) -> Result<Tensors> {
    let tensor = |(name, shape): (String, Shape)| {
        let tensor = match shape.dims() {
            [_, rest @ ..] if !rest.is_empty() => {
                let fan_in: usize = rest.iter().product();
                (normal(shape.dims())?.squeeze(0)? * (1.0 / (fan_in as f64).sqrt()))?
            }
            _ => Tensor::full(0.5f32, shape, &CPU)?,
        };
        Ok((name, tensor))
    };
    shapes.into_iter().map(tensor).collect()
}
