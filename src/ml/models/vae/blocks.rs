//! Building blocks of the autoencoder, named as in diffusers.

use super::config::VaeConfig;
use crate::kernels::conv::{Conv2d, Padding};
use crate::kernels::group_norm::{Activation, GroupNorm};
use crate::kernels::upsample::upsample2x;
use crate::nn::{Linear, attention, linear_with};
use candle_core::{D, Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// The eps of every group normalisation in the network.
const EPS: f32 = 1e-6;

/// Group normalisation followed by SiLU.
pub fn norm_silu(cfg: &VaeConfig, channels: usize, vb: VarBuilder) -> Result<GroupNorm> {
    GroupNorm::new(cfg.norm_num_groups, channels, EPS, Activation::Silu, vb)
}

/// 3x3, keeping the size.
pub fn conv3x3(channels_in: usize, channels_out: usize, vb: VarBuilder) -> Result<Conv2d> {
    Conv2d::new(channels_in, channels_out, 3, 1, Padding::symmetric(1, 1), vb)
}

/// 1x1.
pub fn conv1x1(channels_in: usize, channels_out: usize, vb: VarBuilder) -> Result<Conv2d> {
    Conv2d::new(channels_in, channels_out, 1, 1, Padding::NONE, vb)
}

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`, with a 1x1 convolution on the shortcut if the
/// number of channels changes.
pub struct Resnet {
    pub norm1: GroupNorm,
    pub conv1: Conv2d,
    pub norm2: GroupNorm,
    pub conv2: Conv2d,
    pub shortcut: Option<Conv2d>,
}

impl Resnet {
    pub fn new(cfg: &VaeConfig, channels_in: usize, channels_out: usize, vb: VarBuilder) -> Result<Self> {
        let shortcut = if channels_in == channels_out {
            None
        } else {
            Some(conv1x1(channels_in, channels_out, vb.pp("conv_shortcut"))?)
        };
        Ok(Self {
            norm1: norm_silu(cfg, channels_in, vb.pp("norm1"))?,
            conv1: conv3x3(channels_in, channels_out, vb.pp("conv1"))?,
            norm2: norm_silu(cfg, channels_out, vb.pp("norm2"))?,
            conv2: conv3x3(channels_out, channels_out, vb.pp("conv2"))?,
            shortcut,
        })
    }
}

impl Module for Resnet {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward(x)?)?;
        let h = self.conv2.forward(&self.norm2.forward(&h)?)?;
        match &self.shortcut {
            None => x + h,
            Some(s) => s.forward(x)? + h,
        }
    }
}

/// From this number of pixels on, attention does not hold the scores of all pairs, which take 64
/// MiB for a 512 px image. Smaller maps, on which autoencoders are trained here, keep the plain
/// products and with them their bits.
const MANY_PIXELS: usize = 1024;

/// Single-head self-attention over pixels, with a residual.
pub struct Attention {
    pub norm: GroupNorm,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub out: Linear,
}

impl Attention {
    pub fn new(cfg: &VaeConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let bound = 1.0 / (channels as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let linear = |name: &str| linear_with(channels, channels, init, init, vb.pp(name));
        Ok(Self {
            norm: GroupNorm::new(cfg.norm_num_groups, channels, EPS, Activation::None, vb.pp("group_norm"))?,
            q: linear("to_q")?,
            k: linear("to_k")?,
            v: linear("to_v")?,
            out: linear("to_out.0")?,
        })
    }
}

impl Module for Attention {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        let pixels = self.norm.forward(x)?.reshape((n, c, h * w))?.transpose(1, 2)?.contiguous()?;
        let (q, k, v) = (self.q.forward(&pixels)?, self.k.forward(&pixels)?, self.v.forward(&pixels)?);
        let mixed = if h * w >= MANY_PIXELS {
            attention(&Tensor::cat(&[q, k, v], 2)?, 1)?
        } else {
            let scores = (q * (1.0 / (c as f64).sqrt()))?.matmul(&k.t()?)?;
            candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?
        };
        x + self.out.forward(&mixed)?.transpose(1, 2)?.reshape((n, c, h, w))?
    }
}

/// The innermost block: resnet, attention, resnet.
pub struct Middle {
    pub first: Resnet,
    pub attention: Option<Attention>,
    pub second: Resnet,
}

impl Middle {
    pub fn new(cfg: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let c = cfg.deepest();
        let attention = match cfg.mid_block_add_attention {
            true => Some(Attention::new(cfg, c, vb.pp("attentions.0"))?),
            false => None,
        };
        Ok(Self {
            first: Resnet::new(cfg, c, c, vb.pp("resnets.0"))?,
            attention,
            second: Resnet::new(cfg, c, c, vb.pp("resnets.1"))?,
        })
    }
}

impl Module for Middle {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.first.forward(x)?;
        let x = match &self.attention {
            Some(a) => a.forward(&x)?,
            None => x,
        };
        self.second.forward(&x)
    }
}

/// The change of size after a level's resnets.
pub enum Resize {
    Keep,
    /// 3x3 with stride 2, padded only on the right and at the bottom.
    Halve(Conv2d),
    /// Nearest neighbour, then 3x3.
    Double(Conv2d),
}

/// Resnets of equal width, in some levels each with attention, then a change of size.
pub struct Level {
    pub resnets: Vec<Resnet>,
    /// One after each resnet, or none.
    pub attentions: Vec<Attention>,
    pub resize: Resize,
}

impl Level {
    fn resnets(cfg: &VaeConfig, count: usize, first: usize, width: usize, vb: &VarBuilder) -> Result<Vec<Resnet>> {
        let channels = |i: usize| if i == 0 { first } else { width };
        (0..count).map(|i| Resnet::new(cfg, channels(i), width, vb.pp(format!("resnets.{i}")))).collect()
    }

    fn attentions(cfg: &VaeConfig, count: usize, width: usize, vb: &VarBuilder) -> Result<Vec<Attention>> {
        (0..count).map(|i| Attention::new(cfg, width, vb.pp(format!("attentions.{i}")))).collect()
    }

    /// Level `i` of the encoder.
    pub fn down(cfg: &VaeConfig, i: usize, channels_in: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        let resize = if i + 1 == cfg.block_out_channels.len() {
            Resize::Keep
        } else {
            let padding = Padding { top: 0, bottom: 1, left: 0, right: 1 };
            Resize::Halve(Conv2d::new(width, width, 3, 2, padding, vb.pp("downsamplers.0.conv"))?)
        };
        let count = cfg.layers_per_block;
        let resnets = Self::resnets(cfg, count, channels_in, width, &vb)?;
        let attentions = Self::attentions(cfg, if cfg.attends_down(i) { count } else { 0 }, width, &vb)?;
        Ok(Self { resnets, attentions, resize })
    }

    /// Level `i` of the decoder, the deepest first, which has one more resnet.
    pub fn up(cfg: &VaeConfig, i: usize, channels_in: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        let resize = match i + 1 == cfg.block_out_channels.len() {
            true => Resize::Keep,
            false => Resize::Double(conv3x3(width, width, vb.pp("upsamplers.0.conv"))?),
        };
        let count = cfg.layers_per_block + 1;
        let resnets = Self::resnets(cfg, count, channels_in, width, &vb)?;
        let attentions = Self::attentions(cfg, if cfg.attends_up(i) { count } else { 0 }, width, &vb)?;
        Ok(Self { resnets, attentions, resize })
    }
}

impl Module for Level {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.resnets.iter().enumerate().try_fold(x.clone(), |x, (i, resnet)| {
            let x = resnet.forward(&x)?;
            match self.attentions.get(i) {
                Some(attention) => attention.forward(&x),
                None => Ok(x),
            }
        })?;
        match &self.resize {
            Resize::Keep => Ok(x),
            Resize::Halve(conv) => conv.forward(&x),
            Resize::Double(conv) => conv.forward(&upsample2x(&x)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::params::ParamSet;
    use crate::rng::{Purpose, normal_rows};
    use candle_core::{DType, Device};

    /// Both paths of [`Attention`] agree: a map below [`MANY_PIXELS`], and the same pixels repeated
    /// above it.
    #[test]
    fn attention_is_the_same_over_few_pixels_and_over_many() -> Result<()> {
        let cfg = VaeConfig::rgb(&[8], 1, 4, 4, true);
        let (_, vb) = ParamSet::init(1, DType::F32, &Device::Cpu);
        let attention = Attention::new(&cfg, 8, vb)?;
        let few = normal_rows(0, Purpose::Probe, 0, &[0, 1], &[8, 24, 24], &Device::Cpu)?;
        // Every pixel twice: statistics, and weighted means over pixels, stay the same.
        let many = Tensor::cat(&[&few, &few], 2)?;
        let (few, many) = (attention.forward(&few)?, attention.forward(&many)?.narrow(2, 0, 24)?);
        let off = (few - many)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(24 * 24 < MANY_PIXELS && MANY_PIXELS <= 2 * 24 * 24 && off < 1e-5, "{off}");
        Ok(())
    }
}
