//! Preview images during training: sixteen samples from the same noise and classes each time, so
//! that the contact sheets of different steps can be compared. They are for visual inspection only:
//! no guidance, few steps. They are not part of the result.

use crate::data::rgb::Rgb;
use crate::diffusion::interpolant::Path;
use crate::diffusion::sampler::{Away, Method, SamplerConfig, Velocity, sample, start_noise};
use crate::models::sit::SiTConfig;
use crate::models::vae::AutoencoderKl;
use crate::viz::picture::{contact_sheet, to_u8};
use candle_core::{DType, Device, Result, Tensor, bail};

pub const COUNT: usize = 16;
const COLUMNS: usize = 4;
/// Number of Euler steps. Coarse shapes need no more, and sixteen samples then cost as much as a
/// few training steps.
const STEPS: usize = 20;
/// Without a decoder, latents are shown as pixels: they have unit standard deviation, and three
/// standard deviations span the pixel range.
const RANGE: f64 = 3.0;

/// Draws contact sheets of samples, decoded if there is a decoder.
pub struct Preview<'a> {
    pub config: &'a SiTConfig,
    /// With the device on which it takes latents.
    pub decoder: Option<(AutoencoderKl, Device)>,
    pub path: Path,
    pub seed: u64,
    /// Of points and latents.
    pub device: Device,
}

impl Preview<'_> {
    /// A contact sheet of samples by this velocity.
    pub fn sheet(&self, velocity: &mut Velocity<'_>) -> Result<Rgb> {
        let images = self.images(velocity)?;
        let (_, height, width, _) = images.dims4()?;
        let pixels: Vec<u8> = images.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        Ok(contact_sheet(&pixels, height, width, COLUMNS, (64 / height.max(1)).max(1)))
    }

    /// Samples as bytes `[n, H, W, 3]`.
    fn images(&self, velocity: &mut Velocity<'_>) -> Result<Tensor> {
        let (config, device) = (self.config, &self.device);
        let sampler = SamplerConfig {
            method: Method::OdeEuler,
            steps: STEPS,
            shift: None,
            atol: None,
            rtol: None,
            cfg_scale: 1.0,
            guidance_low: 0.0,
            guidance_high: 1.0,
            path: self.path,
        };
        let ids: Vec<u64> = (0..COUNT as u64).collect();
        let labels = classes(config.num_classes);
        let classes = Tensor::new(labels, device)?;
        let start = start_noise(self.seed, &ids, &config.state_shape(), device)?;
        // Euler steps draw no noise, and sampling without guidance uses no null class.
        let mut noise = |_| bail!("an ODE sampler draws no noise");
        let states = sample(&sampler, &start, &classes, Away::Classes(&classes), &mut noise, velocity)?;
        let latents = config.latents_of(&states)?;
        if !latents.sum_all()?.to_scalar::<f64>()?.is_finite() {
            bail!("the averaged weights produce values that are not finite");
        }
        let latents = latents.to_dtype(DType::F32)?;
        match &self.decoder {
            Some((vae, device)) => {
                let latents = latents.to_device(device)?;
                to_u8(&vae.decode(&vae.config().scale()?.to_autoencoder(&latents)?)?)
            }
            None => to_u8(&(three(&latents)? / RANGE)?),
        }
    }
}

/// The labels of the samples, spread over all `n` classes.
fn classes(n: usize) -> Vec<u32> {
    (0..COUNT).map(|i| if n >= COUNT { i * n / COUNT } else { i % n.max(1) } as u32).collect()
}

/// The first three channels; the last channel is repeated if there are fewer.
fn three(latents: &Tensor) -> Result<Tensor> {
    let last = latents.dim(1)?.saturating_sub(1);
    let channels = (0..3).map(|c| latents.narrow(1, last.min(c), 1)).collect::<Result<Vec<_>>>()?;
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
