//! The loss of an autoencoder, and measures of its reconstructions.

use super::{AutoencoderKl, Posterior};
use crate::rng::{self, Purpose};
use candle_core::{Device, Result, Tensor};

/// Distance between a reconstruction and its image, averaged over all elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reconstruction {
    /// Absolute difference.
    L1,
    /// Squared difference.
    L2,
}

impl Reconstruction {
    /// Scalar.
    pub fn of(self, output: &Tensor, target: &Tensor) -> Result<Tensor> {
        let difference = (output - target)?;
        match self {
            Self::L1 => difference.abs()?.mean_all(),
            Self::L2 => difference.sqr()?.mean_all(),
        }
    }
}

/// The loss of one batch and its parts, scalars.
pub struct VaeLoss {
    /// reconstruction + kl_weight * kl
    pub total: Tensor,
    pub reconstruction: Tensor,
    /// KL divergence in nats per latent element, so that its weight does not depend on the image
    /// size.
    pub kl: Tensor,
}

impl VaeLoss {
    /// `images` `[n, 3, H, W]` in [-1, 1]; `noise` has the shape of their latents.
    pub fn of(
        vae: &AutoencoderKl,
        images: &Tensor,
        noise: &Tensor,
        kind: Reconstruction,
        kl_weight: f64,
    ) -> Result<Self> {
        let posterior = vae.encode(images)?;
        let output = vae.decode(&posterior.sample(noise)?)?;
        let reconstruction = kind.of(&output, images)?;
        let per_image = posterior.mean.elem_count() / images.dim(0)?.max(1);
        let kl = (posterior.kl()?.mean_all()? / per_image.max(1) as f64)?;
        Ok(Self { total: (&reconstruction + (&kl * kl_weight)?)?, reconstruction, kl })
    }
}

/// The noise for the posterior samples of some images at a step, `[samples.len(), ..latent]`.
pub fn posterior_noise(seed: u64, step: u64, samples: &[u64], latent: &[usize], device: &Device) -> Result<Tensor> {
    rng::normal_rows(seed, Purpose::Posterior, step, samples, latent, device)
}

impl Posterior {
    /// Sum and sum of squares of the means, and sum of the variances, f64: the parts of the
    /// latents' overall variance.
    pub fn sums(&self) -> Result<[f64; 3]> {
        let sum =
            |t: &Tensor| -> Result<f64> { Ok(t.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).sum()) };
        Ok([sum(&self.mean)?, sum(&self.mean.sqr()?)?, sum(&self.std.sqr()?)?])
    }
}

/// Peak signal-to-noise ratio in dB for pixels in [-1, 1], from the mean squared error.
pub fn psnr(mean_squared_error: f64) -> f64 {
    10.0 * (4.0 / mean_squared_error.max(1e-12)).log10()
}
