//! `train-vae`: trains an autoencoder on images and measures the scale of its latents.

use super::settings::{LoopSettings, Optimization, warn_of_copies};
use super::trainer;
use crate::support::facts;
use crate::support::files::{create_dir, write_json};
use crate::support::params::{device, usage};
use candle_core::{DType, Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::batches::batches;
use erw_ml::data::images::{ImageSet, to_unit};
use erw_ml::data::prefetch::MicroBatch;
use erw_ml::models::vae::{self, AutoencoderKl, Reconstruction, VaeConfig, VaeLoss, posterior_noise, psnr};
use erw_ml::nn::params::{self, ParamSet};
use erw_ml::train::config::StepLoss;
use erw_ml::train::outcome::Trained;
use erw_ml::train::{Callbacks, batch_indices};
use erw_ml::viz::picture::{contact_sheet, to_u8};
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use serde::Deserialize;
use std::path::Path;

pub const KIND: StageKind = StageKind {
    name: "train-vae",
    manifest: include_str!("../../../stages/train-vae.toml"),
    check,
    facts: facts::train_vae,
    foresee: None,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    seed: u64,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    latent_channels: usize,
    norm_num_groups: usize,
    mid_block_add_attention: bool,
    reconstruction: Reconstruction,
    kl_weight: f64,
    batch: usize,
    measure_images: u64,
    #[serde(flatten)]
    optimization: Optimization,
}

impl Params {
    fn network(&self) -> VaeConfig {
        VaeConfig::rgb(
            &self.block_out_channels,
            self.layers_per_block,
            self.latent_channels,
            self.norm_num_groups,
            self.mid_block_add_attention,
        )
    }
}

/// The autoencoder that a stage with these parameters makes.
pub fn planned(params: &Values) -> Option<VaeConfig> {
    parse::<Params>(params).ok().map(|p| p.network())
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<LoopSettings>(operation)?;
    let p: Params = parse(params)?;
    p.optimization.check()?;
    p.network().check().map_err(usage)
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let device = device(attempt.device())?;
    let images = ImageSet::open(attempt.input("images")?)?;
    if images.is_empty() {
        return Err(Error::stage("the image set is empty"));
    }
    let f = p.network().downsampling();
    if !images.height().is_multiple_of(f) || !images.width().is_multiple_of(f) {
        let text = format!("images of {} x {} pixels are not a multiple of {f}", images.height(), images.width());
        return Err(Error::stage(text).hint("every level of `block_out_channels` but the last halves height and width"));
    }
    let trained = train(attempt, &p, &images, &device)?;
    let out = attempt.output("vae");
    create_dir(&out)?;
    params::save(&trained.ema, &out.join(vae::WEIGHTS_FILE))?;
    let mut config = p.network();
    write_json(&out.join("config.json"), &config)?;

    // Read it back as later stages will, without gradients.
    let vae = AutoencoderKl::load(&out, &device)?;
    let measured = measure(&vae, &images, &p, &device)?;
    config.scaling_factor = 1.0 / measured.latent_std;
    config.check().map_err(|e| Error::stage("the scale of the latents is invalid").because(e))?;
    write_json(&out.join("config.json"), &config)?;
    draw(&vae, &images, &device, &out.join("reconstructions.png"))?;
    attempt.result("psnr", measured.psnr);
    attempt.result("latent_std", measured.latent_std);
    attempt.show("vae", "reconstructions.png");
    Ok(())
}

fn train(attempt: &Attempt, p: &Params, images: &ImageSet, device: &Device) -> Result<Trained> {
    let (params, vb) = ParamSet::init(p.seed, DType::F32, device);
    let vae = AutoencoderKl::new(&p.network(), vb)?;
    let f = vae.config().downsampling();
    let latent = [p.latent_channels, images.height() / f, images.width() / f];
    let make = |(step, micro): MicroBatch| -> candle_core::Result<(Tensor, Tensor)> {
        let samples = batch_indices(p.seed, step, micro, 1, p.batch, images.len() as usize);
        let x = to_unit(&images.batch(&samples, &Device::Cpu)?)?;
        Ok((x, posterior_noise(p.seed, step, &samples, &latent, &Device::Cpu)?))
    };
    let loss = |_: u64, (x, noise): (Tensor, Tensor)| -> candle_core::Result<StepLoss> {
        let (x, noise) = (x.to_device(device)?, noise.to_device(device)?);
        let loss = VaeLoss::of(&vae, &x, &noise, p.reconstruction, p.kl_weight)?;
        let number = |t: &Tensor| -> candle_core::Result<f64> { Ok(f64::from(t.to_scalar::<f32>()?)) };
        let parts = vec![("reconstruction", number(&loss.reconstruction)?), ("kl", number(&loss.kl)?)];
        Ok(StepLoss { loss: loss.total, parts })
    };
    warn_of_copies(attempt, p.batch, images.len());
    let cfg = p.optimization.fit(attempt, p.batch, 1)?;
    trainer::train(attempt, &params, &cfg, &mut Callbacks::default(), &make, &loss)
}

struct Measured {
    psnr: f64,
    /// Standard deviation of posterior samples over all channels and positions.
    latent_std: f64,
}

/// Reconstruction error of posterior means, and the spread of latents, over images spread evenly
/// through the set.
fn measure(vae: &AutoencoderKl, images: &ImageSet, p: &Params, device: &Device) -> Result<Measured> {
    let chosen = evenly(images.len(), p.measure_images);
    let (mut squared, mut pixels) = (0f64, 0f64);
    let (mut sums, mut latents) = ([0f64; 3], 0f64);
    for range in batches(chosen.len() as u64, p.batch) {
        let x = to_unit(&images.batch(&chosen[range.start as usize..range.end as usize], device)?)?;
        let posterior = vae.encode(&x)?;
        let error = (vae.decode(&posterior.mean)?.clamp(-1f32, 1f32)? - &x)?.sqr()?.mean_all()?;
        squared += f64::from(error.to_scalar::<f32>()?) * x.elem_count() as f64;
        pixels += x.elem_count() as f64;
        latents += posterior.mean.elem_count() as f64;
        sums.iter_mut().zip(posterior.sums()?).for_each(|(total, part)| *total += part);
    }
    // Variance of mean + std * noise: the variance of the means plus the mean of the variances.
    let [mean, square, variance] = sums.map(|s| s / latents);
    Ok(Measured { psnr: psnr(squared / pixels), latent_std: (square - mean * mean + variance).sqrt() })
}

/// `count` of 0..n at equal distances, or all of them if there are no more. Images lie class by
/// class or in arbitrary order, so nothing repeats with the distance.
fn evenly(n: u64, count: u64) -> Vec<u64> {
    let count = count.min(n);
    (0..count).map(|i| (u128::from(i) * u128::from(n) / u128::from(count)) as u64).collect()
}

/// Eight originals above their reconstructions.
fn draw(vae: &AutoencoderKl, images: &ImageSet, device: &Device, path: &Path) -> Result<()> {
    let chosen = evenly(images.len(), 8);
    let x = to_unit(&images.batch(&chosen, device)?)?;
    let y = vae.decode(&vae.encode(&x)?.mean)?;
    let pixels = to_u8(&Tensor::cat(&[&x, &y], 0)?)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<u8>()?;
    let (height, width) = (images.height(), images.width());
    contact_sheet(&pixels, height, width, chosen.len(), 96 / height.max(1)).save(path)?;
    Ok(())
}
