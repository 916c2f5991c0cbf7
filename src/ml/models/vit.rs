//! The vision transformer (Dosovitskiy et al. 2021): one implementation with options for every
//! published encoder and for those trained here, with the parameter names of DINOv2's hub.
//!
//! Every layer is differentiable. It takes normalised images of its own size. Image preprocessing,
//! other sizes and foreign tensor names are in `models/encoder`.

use crate::nn::params::xavier_uniform;
use crate::nn::{self, LayerNorm, Linear};
use candle_core::{Result, Tensor, bail};
use candle_nn::{Init, Module, VarBuilder};
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// The activation between the two linear layers of the MLP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mlp {
    /// GELU; `exact_gelu` chooses the form.
    #[default]
    Gelu,
    /// x sigmoid(1.702 x), used by CLIP.
    QuickGelu,
    /// SiLU of one half of the hidden channels times the other half (Shazeer 2020), used by
    /// DINOv2-g. Its layers are called `w12` and `w3`.
    SwiGlu,
}

/// Fields with a default were added later, and are written only if they differ from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side in pixels of the square images of the position table, a multiple of `patch_size`.
    pub image_size: usize,
    pub patch_size: usize,
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    /// Width of the hidden layer of the MLP, usually 4 `dim`.
    pub mlp_dim: usize,
    pub class_token: bool,
    /// Learned tokens without positions after the class token (Darcet et al. 2024).
    #[serde(default, skip_serializing_if = "is_default")]
    pub registers: usize,
    /// A learned factor per channel after attention and MLP.
    pub layer_scale: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub mlp: Mlp,
    /// GELU by the error function; otherwise its tanh approximation.
    pub exact_gelu: bool,
    /// Whether the patch convolution has no bias (CLIP).
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_patch_bias: bool,
    /// Whether tokens pass a LayerNorm before the first block (CLIP), called `norm_pre` as in timm.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pre_norm: bool,
    /// Whether tokens pass the last LayerNorm (not for the features of MAE and CLIP).
    pub final_norm: bool,
    /// The eps of every LayerNorm.
    pub eps: f64,
    /// The longest period of rotary positions of patches (DINOv3), in place of a table that is added.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rope_theta: Option<f64>,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Above any published transformer; a larger configuration is refused before anything is computed
/// with it.
const LARGEST: usize = 1 << 16;

impl VitConfig {
    /// The original transformer: class token, exact GELU with a hidden layer of 4 `dim`, final
    /// norm.
    pub fn new(image_size: usize, patch_size: usize, dim: usize, depth: usize, heads: usize) -> Self {
        Self {
            image_size,
            patch_size,
            dim,
            depth,
            heads,
            mlp_dim: 4 * dim,
            class_token: true,
            registers: 0,
            layer_scale: false,
            mlp: Mlp::Gelu,
            exact_gelu: true,
            no_patch_bias: false,
            pre_norm: false,
            final_norm: true,
            eps: 1e-6,
            rope_theta: None,
        }
    }

    /// Patches per side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size.max(1)
    }

    /// Patch tokens per image.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Tokens before the patch tokens.
    pub fn prefix(&self) -> usize {
        usize::from(self.class_token) + self.registers
    }

    pub fn check(&self) -> Result<()> {
        let Self { image_size, patch_size, dim, depth, heads, mlp_dim, .. } = *self;
        let sizes = [image_size, patch_size, dim, depth, heads, mlp_dim];
        if sizes.contains(&0) {
            bail!("a size of the vision transformer is 0: {self:?}");
        }
        if sizes.iter().chain([&self.registers]).any(|s| *s > LARGEST) {
            bail!("a size of the vision transformer is above {LARGEST}: {self:?}");
        }
        if image_size % patch_size != 0 {
            bail!("the image size {image_size} is not a multiple of the patch size {patch_size}");
        }
        if dim % heads != 0 {
            bail!("width {dim} is not a multiple of the number of heads {heads}");
        }
        if let Some(theta) = self.rope_theta {
            if !(theta.is_finite() && theta > 0.0) {
                bail!("`rope_theta` must be a number above 0, not {theta}");
            }
            if !(dim / heads).is_multiple_of(4) {
                bail!("rotary positions need a head dimension that is a multiple of 4, not {}", dim / heads);
            }
        }
        Ok(())
    }

    /// Cosines and sines `[prefix + T, D / 2 of a head]` by which queries and keys of a square grid of
    /// `count` patches are turned, half of the planes by the row and half by the column. As in
    /// DINOv3, the grid spans -1 to 1 whatever its size, positions are the centres of patches, and
    /// angles are 2 pi position / theta^(4 i / D). Tokens before the patches are not turned.
    pub(crate) fn rope(&self, count: usize, device: &candle_core::Device) -> Result<Option<(Tensor, Tensor)>> {
        let Some(theta) = self.rope_theta else { return Ok(None) };
        let (grid, planes) = (count.isqrt(), self.dim / self.heads / 4);
        if grid * grid != count {
            bail!("rotary positions are for square images, not for {count} patches");
        }
        let mut angles = vec![0f64; self.prefix() * 2 * planes];
        for patch in 0..count {
            for index in [patch / grid, patch % grid] {
                let position = 2.0 * (index as f64 + 0.5) / grid as f64 - 1.0;
                let angle = |i: usize| TAU * position / theta.powf(i as f64 / planes as f64);
                angles.extend((0..planes).map(angle));
            }
        }
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| f(*angle) as f32).collect();
            Tensor::from_vec(values, (self.prefix() + count, 2 * planes), device)
        };
        Ok(Some((table(f64::cos)?, table(f64::sin)?)))
    }
}

/// A vision transformer whose parameters come from a `VarBuilder`: trainable or loaded.
#[derive(Debug, Clone)]
pub struct Vit {
    config: VitConfig,
    patch_embed: Linear,
    cls_token: Option<Tensor>,
    register_tokens: Option<Tensor>,
    pos_embed: Tensor,
    norm_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
}

impl Vit {
    pub fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let dim = config.dim;
        let tokens =
            |count: usize, name: &str| vb.get_with_hints((1, count, dim), name, Init::Randn { mean: 0.0, stdev: 0.02 });
        let norm =
            |wanted: bool, name: &str| wanted.then(|| LayerNorm::new(dim, config.eps, true, vb.pp(name))).transpose();
        let blocks = (0..config.depth).map(|i| Block::new(config, vb.pp("blocks").pp(i)));
        Ok(Self {
            patch_embed: patch_embed(config, vb.pp("patch_embed.proj"))?,
            cls_token: config.class_token.then(|| tokens(1, "cls_token")).transpose()?,
            register_tokens: (config.registers > 0).then(|| tokens(config.registers, "register_tokens")).transpose()?,
            pos_embed: match (usize::from(config.class_token) + config.tokens(), config.rope_theta) {
                (count, None) => tokens(count, "pos_embed")?,
                // Nothing is added.
                (count, Some(_)) => Tensor::zeros((1, count, dim), vb.dtype(), vb.device())?,
            },
            norm_pre: norm(config.pre_norm, "norm_pre")?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: norm(config.final_norm, "norm")?,
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Positions `[1, class + T, D]` for its own grid; zeros with rotary positions.
    pub fn positions(&self) -> &Tensor {
        &self.pos_embed
    }

    /// Images `[n, 3, S, S]` to patch embeddings `[n, T, D]` without positions. S must be a
    /// multiple of the patch size.
    pub fn embed(&self, images: &Tensor) -> Result<Tensor> {
        let p = self.config.patch_size;
        match *images.dims() {
            [_, 3, h, w] if h > 0 && w > 0 && h % p == 0 && w % p == 0 => {
                self.patch_embed.forward(&patchify(images, p)?)
            }
            _ => bail!(
                "the encoder needs images [n, 3, H, W] with sides that are multiples of {p}, got {:?}",
                images.dims()
            ),
        }
    }

    /// Patch embeddings `[n, T, D]` to all tokens `[n, prefix + T, D]`: class token and registers
    /// first.
    pub fn encode(&self, patches: &Tensor) -> Result<Tensor> {
        self.encode_at(patches, &self.pos_embed)
    }

    /// Like [`encode`](Self::encode) with other positions `[1, class + T, D]`, for images of
    /// another size.
    pub fn encode_at(&self, patches: &Tensor, positions: &Tensor) -> Result<Tensor> {
        Ok(self.encode_attending(patches, positions, &[])?.0)
    }

    /// [`encode_at`](Self::encode_at), and the attention scores f32 `[n, H, T, T]` between the
    /// patches in these blocks, counted from 1: before the softmax, without class token and
    /// registers.
    pub fn encode_attending(
        &self,
        patches: &Tensor,
        positions: &Tensor,
        blocks: &[usize],
    ) -> Result<(Tensor, Vec<Tensor>)> {
        if let Some(bad) = blocks.iter().find(|b| !(1..=self.blocks.len()).contains(*b)) {
            bail!("block {bad} is not one of the encoder's blocks 1 to {}", self.blocks.len());
        }
        let mut scores = vec![None; blocks.len()];
        let (n, count, dim) = patches.dims3()?;
        let class = usize::from(self.config.class_token);
        if positions.dims() != [1, class + count, dim] {
            bail!("{count} patches of width {dim} do not match positions {:?}", positions.dims());
        }
        let patches = patches.broadcast_add(&positions.narrow(1, class, count)?)?;
        let mut parts = Vec::new();
        if let Some(cls) = &self.cls_token {
            parts.push((cls + positions.narrow(1, 0, 1)?)?.broadcast_as((n, 1, dim))?);
        }
        if let Some(registers) = &self.register_tokens {
            parts.push(registers.broadcast_as((n, self.config.registers, dim))?);
        }
        let mut x = if parts.is_empty() {
            patches
        } else {
            parts.push(patches);
            Tensor::cat(&parts, 1)?
        };
        if let Some(norm) = &self.norm_pre {
            x = norm.forward(&x)?;
        }
        let (prefix, rope) = (self.config.prefix(), self.config.rope(count, x.device())?);
        for (i, block) in self.blocks.iter().enumerate() {
            for (slot, _) in scores.iter_mut().zip(blocks).filter(|(_, b)| **b == i + 1) {
                let all = nn::attention_scores(&block.qkv(&x, rope.as_ref())?, block.heads)?;
                *slot = Some(all.narrow(2, prefix, count)?.narrow(3, prefix, count)?.contiguous()?);
            }
            x = block.forward(&x, rope.as_ref())?;
        }
        let x = match &self.norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        };
        Ok((x, scores.into_iter().flatten().collect()))
    }

    /// Patch tokens `[n, T, D]` of images `[n, 3, S, S]` of its own size, row by row of the grid.
    pub fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        self.patches_of(&self.encode(&self.embed(images)?)?)
    }

    /// Removes class token and registers from the result of [`encode`](Self::encode).
    pub fn patches_of(&self, tokens: &Tensor) -> Result<Tensor> {
        let prefix = self.config.prefix();
        tokens.narrow(1, prefix, tokens.dim(1)?.saturating_sub(prefix))?.contiguous()
    }
}

/// Splits `[n, C, H, W]` into `[n, T, C p p]`: patches row by row, each in the order (channel, row,
/// column).
pub fn patchify(images: &Tensor, p: usize) -> Result<Tensor> {
    let (n, c, h, w) = images.dims4()?;
    let x = images.reshape(&[n, c, h / p, p, w / p, p][..])?;
    x.permute(vec![0, 2, 4, 1, 3, 5])?.contiguous()?.reshape((n, (h / p) * (w / p), c * p * p))
}

/// The convolution with stride = kernel = patch size, as a linear layer over flattened patches.
fn patch_embed(config: &VitConfig, vb: VarBuilder) -> Result<Linear> {
    let (p, dim) = (config.patch_size, config.dim);
    let fan_in = 3 * p * p;
    let weight = vb.get_with_hints((dim, 3, p, p), "weight", xavier_uniform(fan_in, dim))?;
    let bias = match config.no_patch_bias {
        true => Tensor::zeros(dim, vb.dtype(), vb.device())?,
        false => vb.get_with_hints(dim, "bias", Init::Const(0.0))?,
    };
    Ok(Linear::new(weight.reshape((dim, fan_in))?, bias))
}

#[derive(Debug, Clone)]
struct Block {
    heads: usize,
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    ls1: Option<Tensor>,
    norm2: LayerNorm,
    activation: fn(&Tensor) -> Result<Tensor>,
    /// To and from the hidden layer.
    hidden: Linear,
    out: Linear,
    ls2: Option<Tensor>,
}

impl Block {
    fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        let (dim, hidden) = (config.dim, config.mlp_dim);
        let scale = |name: &str| {
            let gamma = || vb.pp(name).get_with_hints(dim, "gamma", Init::Const(1.0));
            config.layer_scale.then(gamma).transpose()
        };
        type Activation = fn(&Tensor) -> Result<Tensor>;
        let (activation, names, width): (Activation, _, _) = match config.mlp {
            Mlp::Gelu if config.exact_gelu => (nn::gelu_erf, ("mlp.fc1", "mlp.fc2"), hidden),
            Mlp::Gelu => (nn::gelu_tanh, ("mlp.fc1", "mlp.fc2"), hidden),
            Mlp::QuickGelu => (nn::quick_gelu, ("mlp.fc1", "mlp.fc2"), hidden),
            Mlp::SwiGlu => (nn::swiglu, ("mlp.w12", "mlp.w3"), 2 * hidden),
        };
        Ok(Self {
            heads: config.heads,
            norm1: LayerNorm::new(dim, config.eps, true, vb.pp("norm1"))?,
            qkv: nn::linear(dim, 3 * dim, vb.pp("attn.qkv"))?,
            proj: nn::linear(dim, dim, vb.pp("attn.proj"))?,
            ls1: scale("ls1")?,
            norm2: LayerNorm::new(dim, config.eps, true, vb.pp("norm2"))?,
            activation,
            hidden: nn::linear(dim, width, vb.pp(names.0))?,
            out: nn::linear(hidden, dim, vb.pp(names.1))?,
            ls2: scale("ls2")?,
        })
    }

    /// Queries, keys and values `[n, N, 3 D]` as attention gets them.
    fn qkv(&self, x: &Tensor, rope: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        match rope {
            Some((cos, sin)) => nn::rope_halves(&qkv, self.heads, cos, sin),
            None => Ok(qkv),
        }
    }

    fn forward(&self, x: &Tensor, rope: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
        let attended = nn::attention(&self.qkv(x, rope)?, self.heads)?;
        let x = residual(x, &self.proj.forward(&attended)?, &self.ls1)?;
        let hidden = (self.activation)(&self.hidden.forward(&self.norm2.forward(&x)?)?)?;
        residual(&x, &self.out.forward(&hidden)?, &self.ls2)
    }
}

/// x + y, or x + gamma y with a learned factor per channel.
fn residual(x: &Tensor, y: &Tensor, gamma: &Option<Tensor>) -> Result<Tensor> {
    match gamma {
        Some(gamma) => nn::scaled_residual(x, gamma, y),
        None => x + y,
    }
}
