//! The autoencoder with a Gaussian posterior from latent diffusion (Rombach et al., 2022),
//! `AutoencoderKL` in diffusers: images to the mean and standard deviation of latents, and latents
//! back to images.
//!
//! Parameter names are those of diffusers, so files can be exchanged with it. Callers scale the
//! latents: the network works on unscaled ones, and only stores the factors in its configuration.

pub(crate) mod blocks;
mod config;
mod loss;
mod names;

pub use config::VaeConfig;
pub use loss::{Reconstruction, VaeLoss, posterior_noise, psnr};
pub use names::{LANDMARKS, adopt};

use crate::kernels::conv::Conv2d;
use crate::kernels::group_norm::GroupNorm;
use crate::nn::elsewhere::Elsewhere;
use crate::nn::params::{self, Frozen};
use blocks::{Level, Middle, conv1x1, conv3x3, norm_silu};
use candle_core::{D, DType, Device, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;
use std::path::Path;

pub const WEIGHTS_FILE: &str = "vae.safetensors";
/// File names of the weights, ours first, then those of diffusers.
const FILES: [&str; 2] = [WEIGHTS_FILE, "diffusion_pytorch_model.safetensors"];

pub(crate) struct Encoder {
    pub conv_in: Conv2d,
    pub levels: Vec<Level>,
    pub middle: Middle,
    pub norm: GroupNorm,
    pub conv_out: Conv2d,
}

impl Encoder {
    fn new(cfg: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let widths = &cfg.block_out_channels;
        let level =
            |i: usize| Level::down(cfg, i, widths[i.saturating_sub(1)], widths[i], vb.pp(format!("down_blocks.{i}")));
        Ok(Self {
            conv_in: conv3x3(cfg.in_channels, widths[0], vb.pp("conv_in"))?,
            levels: (0..widths.len()).map(level).collect::<Result<_>>()?,
            middle: Middle::new(cfg, vb.pp("mid_block"))?,
            norm: norm_silu(cfg, cfg.deepest(), vb.pp("conv_norm_out"))?,
            conv_out: conv3x3(cfg.deepest(), 2 * cfg.latent_channels, vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.levels.iter().try_fold(self.conv_in.forward(x)?, |x, l| l.forward(&x))?;
        self.conv_out.forward(&self.norm.forward(&self.middle.forward(&x)?)?)
    }
}

pub(crate) struct Decoder {
    pub conv_in: Conv2d,
    pub middle: Middle,
    pub levels: Vec<Level>,
    pub norm: GroupNorm,
    pub conv_out: Conv2d,
}

impl Decoder {
    fn new(cfg: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let widths: Vec<usize> = cfg.block_out_channels.iter().rev().copied().collect();
        let level =
            |i: usize| Level::up(cfg, i, widths[i.saturating_sub(1)], widths[i], vb.pp(format!("up_blocks.{i}")));
        let outermost = cfg.block_out_channels[0];
        Ok(Self {
            conv_in: conv3x3(cfg.latent_channels, widths[0], vb.pp("conv_in"))?,
            middle: Middle::new(cfg, vb.pp("mid_block"))?,
            levels: (0..widths.len()).map(level).collect::<Result<_>>()?,
            norm: norm_silu(cfg, outermost, vb.pp("conv_norm_out"))?,
            conv_out: conv3x3(outermost, cfg.out_channels, vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let x = self.middle.forward(&self.conv_in.forward(z)?)?;
        let x = self.levels.iter().try_fold(x, |x, l| l.forward(&x))?;
        self.conv_out.forward(&self.norm.forward(&x)?)
    }
}

/// A diagonal Gaussian over latents.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// `[n, latent_channels, h, w]`.
    pub mean: Tensor,
    /// Logarithm of the variance, clamped to [-30, 20].
    pub logvar: Tensor,
    /// exp(logvar / 2).
    pub std: Tensor,
}

impl Posterior {
    /// From moments `[n, 2c, h, w]`: means, then log-variances.
    pub fn from_moments(moments: &Tensor) -> Result<Self> {
        let halves = moments.chunk(2, 1)?;
        let [mean, logvar] = halves.as_slice() else { bail!("moments {:?} do not split in two", moments.dims()) };
        let logvar = logvar.contiguous()?.clamp(-30f32, 20f32)?;
        let std = (&logvar * 0.5)?.exp()?;
        Ok(Self { mean: mean.contiguous()?, logvar, std })
    }

    /// `mean + std * noise`.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        &self.mean + (&self.std * noise)?
    }

    /// KL divergence from the standard normal in nats, summed over each image's latents: `[n]`.
    pub fn kl(&self) -> Result<Tensor> {
        let terms = ((self.mean.sqr()? + self.logvar.exp()?)? - &self.logvar)?;
        (terms.flatten_from(1)?.sum(D::Minus1)? - terms.elem_count() as f64 / terms.dim(0)?.max(1) as f64)? * 0.5
    }
}

/// The network.
pub struct AutoencoderKl {
    config: VaeConfig,
    pub(crate) encoder: Encoder,
    pub(crate) decoder: Decoder,
    pub(crate) quant: Option<Conv2d>,
    pub(crate) post_quant: Option<Conv2d>,
    moments: Option<Elsewhere>,
    images: Option<Elsewhere>,
}

impl AutoencoderKl {
    pub fn new(cfg: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        cfg.check()?;
        let c = cfg.latent_channels;
        let pointwise = |wanted: bool, channels: usize, name: &str| match wanted {
            true => conv1x1(channels, channels, vb.pp(name)).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            config: cfg.clone(),
            encoder: Encoder::new(cfg, vb.pp("encoder"))?,
            decoder: Decoder::new(cfg, vb.pp("decoder"))?,
            quant: pointwise(cfg.use_quant_conv, 2 * c, "quant_conv")?,
            post_quant: pointwise(cfg.use_post_quant_conv, c, "post_quant_conv")?,
            moments: None,
            images: None,
        })
    }

    /// With an encoder that is computed elsewhere: from images to moments.
    pub fn encoded_by(self, moments: Elsewhere) -> Self {
        Self { moments: Some(moments), ..self }
    }

    /// With a decoder that is computed elsewhere: from latents to images.
    pub fn decoded_by(self, images: Elsewhere) -> Self {
        Self { images: Some(images), ..self }
    }

    /// Reads `config.json` and the weights in `dir`, a `vae` artifact or a diffusers folder.
    /// Tensors that the configuration does not explain are an error, because the two files then do
    /// not belong together.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let config = VaeConfig::read(&dir.join("config.json"))?;
        let Some(file) = FILES.iter().map(|f| dir.join(f)).find(|f| f.exists()) else {
            bail!("{} holds neither {} nor {}", dir.display(), FILES[0], FILES[1])
        };
        let within = |e: candle_core::Error| candle_core::Error::Msg(format!("{}: {e}", file.display()));
        let frozen = Frozen::new(adopt(&config, params::load(&file, device)?).map_err(within)?.tensors);
        let vae = Self::new(&config, frozen.builder(DType::F32, device)).map_err(within)?;
        let unused = frozen.unused();
        if let Some(first) = unused.first() {
            let n = unused.len();
            bail!("{}: {n} tensors do not belong to the network in config.json, such as {first}", file.display());
        }
        Ok(vae)
    }

    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Images `[n, 3, H, W]` in [-1, 1] to the posterior of their latents `[n, c, H/f, W/f]`.
    pub fn encode(&self, x: &Tensor) -> Result<Posterior> {
        let (_, _, h, w) = x.dims4()?;
        let f = self.config.downsampling();
        if h % f != 0 || w % f != 0 {
            bail!("images of {h}x{w} are not a multiple of the VAE's downsampling of {f}");
        }
        if let Some(moments) = &self.moments {
            return Posterior::from_moments(&moments.of(x)?);
        }
        let moments = self.encoder.forward(x)?;
        Posterior::from_moments(&match &self.quant {
            Some(q) => q.forward(&moments)?,
            None => moments,
        })
    }

    /// Unscaled latents `[n, c, h, w]` to images `[n, 3, f h, f w]`, roughly in [-1, 1] but not
    /// clamped.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        match (&self.images, &self.post_quant) {
            (Some(images), _) => images.of(z),
            (None, Some(q)) => self.decoder.forward(&q.forward(z)?),
            (None, None) => self.decoder.forward(z),
        }
    }
}
