//! Pictures of what the averaged weights give, drawn while the training goes on: sixteen samples from the same noise and
//! classes each time, so that sheets can be leafed through. They are for the eye: no guidance, few steps, and whatever
//! goes wrong with them is a line in the log. They are no part of the result.

use crate::support::files::create_dir;
use candle_core::{DType, Device, Tensor, bail};
use erw_base::error::{Error, Result};
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::diffusion::sampler::{Method, SamplerConfig, sample, start_noise};
use erw_ml::models::sit::{SiT, SiTConfig};
use erw_ml::models::vae::AutoencoderKl;
use erw_ml::nn::params::{Frozen, Tensors};
use erw_ml::viz::picture::{contact_sheet, to_u8};
use erw_runner::kind::attempt::Attempt;
use std::path::PathBuf;

const COUNT: usize = 16;
const COLUMNS: usize = 4;
/// Steps of Euler's method: coarse shapes need no more, and sixteen samples cost as much as a few training steps.
const STEPS: usize = 20;
/// Latents have unit deviation: three of it span the range of a pixel where there is no decoder.
const RANGE: f64 = 3.0;

pub struct Preview<'a> {
    attempt: &'a Attempt,
    config: &'a SiTConfig,
    decoder: Option<AutoencoderKl>,
    sampler: SamplerConfig,
    seed: u64,
    device: &'a Device,
}

impl<'a> Preview<'a> {
    /// With the autoencoder of slot `decoder`, if one is connected.
    pub fn open(
        attempt: &'a Attempt,
        config: &'a SiTConfig,
        path: NoisePath,
        seed: u64,
        device: &'a Device,
    ) -> Result<Self> {
        let decoder = attempt.optional_input("decoder").map(|dir| AutoencoderKl::load(dir, device)).transpose()?;
        if let Some(vae) = decoder.as_ref().filter(|vae| vae.config().latent_channels != config.in_channels) {
            let (a, b) = (vae.config().latent_channels, config.in_channels);
            return Err(Error::stage(format!("the latents of `decoder` have {a} channels, those trained on {b}")));
        }
        let sampler = SamplerConfig {
            method: Method::OdeEuler,
            steps: STEPS,
            cfg_scale: 1.0,
            guidance_low: 0.0,
            guidance_high: 1.0,
            path,
        };
        Ok(Self { attempt, config, decoder, sampler, seed, device })
    }

    /// Draws a sheet and says where it lies, or what stood against it.
    pub fn show(&self, step: u64, weights: &Tensors) {
        self.attempt.log(&match self.draw(step, weights) {
            Ok(path) => format!("samples after {step} steps: {}", path.display()),
            Err(e) => format!("no samples after {step} steps: {e}"),
        });
    }

    fn draw(&self, step: u64, weights: &Tensors) -> Result<PathBuf> {
        let images = self.images(weights)?;
        let (_, height, width, _) = images.dims4()?;
        let pixels: Vec<u8> = images.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        let dir = self.attempt.pictures_dir();
        create_dir(&dir)?;
        let path = dir.join(format!("step-{step:012}.png"));
        contact_sheet(&pixels, height, width, COLUMNS, (64 / height.max(1)).max(1)).save(&path)?;
        Ok(path)
    }

    /// Bytes `[n, H, W, 3]`.
    fn images(&self, weights: &Tensors) -> candle_core::Result<Tensor> {
        let (config, device) = (self.config, self.device);
        let sit = SiT::new(config, Frozen::new(weights.clone()).builder(DType::F32, device))?;
        let ids: Vec<u64> = (0..COUNT as u64).collect();
        let shape = [config.in_channels, config.input_size, config.input_size];
        let labels = classes(config.num_classes);
        let classes = Tensor::new(labels, device)?;
        let start = start_noise(self.seed, &ids, &shape, device)?;
        let mut velocity = |x: &Tensor, t: &Tensor, y: &Tensor| sit.velocity(x, t, y);
        // Euler's method takes no noise on its way, and without guidance no null class.
        let mut noise = |_| bail!("an ODE has no noise");
        let latents = sample(&self.sampler, &start, &classes, &classes, &mut noise, &mut velocity)?;
        if !latents.sum_all()?.to_scalar::<f64>()?.is_finite() {
            bail!("the averaged weights give values that are not finite");
        }
        let latents = latents.to_dtype(DType::F32)?;
        match &self.decoder {
            Some(vae) => to_u8(&vae.decode(&vae.config().unscale(&latents)?)?),
            None => to_u8(&(three(&latents)? / RANGE)?),
        }
    }
}

/// Spread over all classes.
fn classes(n: usize) -> Vec<u32> {
    (0..COUNT).map(|i| if n >= COUNT { i * n / COUNT } else { i % n.max(1) } as u32).collect()
}

/// The first three channels, the last one again where there are fewer.
fn three(latents: &Tensor) -> candle_core::Result<Tensor> {
    let last = latents.dim(1)?.saturating_sub(1);
    let channels = (0..3).map(|c| latents.narrow(1, last.min(c), 1)).collect::<candle_core::Result<Vec<_>>>()?;
    Tensor::cat(&channels, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_or_a_spread_of_them_is_shown() {
        assert_eq!(classes(3)[..5], [0, 1, 2, 0, 1]);
        assert_eq!((classes(1000)[1], classes(1000)[15]), (62, 937));
        let one = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(three(&one).unwrap().dims(), [2, 3, 4, 4]);
    }
}
