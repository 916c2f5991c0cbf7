//! The inputs of a SiT's first block: tokens from patches, and the time as a vector.

use super::SiTConfig;
use super::config::{TABLE, ZERO};
use super::tables::timestep_sinusoid;
use crate::nn::params::xavier_uniform;
use crate::nn::precision::Precision;
use crate::nn::{self, Linear};
use candle_core::{Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};

const SINUSOID: usize = 256;

/// Patches of `[B, C, H, W]` to tokens `[B, N, D]`: a convolution with stride p, computed as a
/// matrix product.
pub struct PatchEmbed {
    linear: Linear,
    patch: usize,
}

impl PatchEmbed {
    pub fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        let (p, c, d) = (cfg.patch_size, cfg.in_channels, cfg.hidden);
        let weight = vb.get_with_hints((d, c, p, p), "weight", xavier_uniform(c * p * p, d))?;
        let bias = vb.get_with_hints(d, "bias", ZERO)?;
        Ok(Self { linear: Linear::new(weight.reshape((d, c * p * p))?, bias), patch: p })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let p = self.patch;
        if h % p != 0 || w % p != 0 {
            bail!("latents of {h}x{w} do not divide into patches of {p}x{p}");
        }
        let patches = x.reshape(&[b, c, h / p, p, w / p, p][..])?.permute([0, 2, 4, 1, 3, 5].as_slice())?;
        self.linear.forward(&patches.reshape((b, h / p * (w / p), c * p * p))?)
    }
}

/// Times `[B]` to vectors `[B, D]`.
pub struct TimeEmbed {
    layers: [Linear; 2],
}

impl TimeEmbed {
    pub fn new(hidden: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            layers: [
                nn::linear_with(SINUSOID, hidden, TABLE, ZERO, vb.pp("mlp.0"))?,
                nn::linear_with(hidden, hidden, TABLE, ZERO, vb.pp("mlp.2"))?,
            ],
        })
    }

    /// `t` is in f32, because half precision can represent only few times.
    pub fn forward(&self, t: &Tensor, precision: Precision) -> Result<Tensor> {
        let wave = precision.lower(&timestep_sinusoid(t, SINUSOID)?)?;
        self.layers[1].forward(&nn::silu(&self.layers[0].forward(&wave)?)?)
    }
}
