//! The vision transformer (Dosovitskiy et al. 2021) in the shape of DINOv2 (Oquab et al. 2023), with its hub names.
//!
//! One core with switches serves as encoder for alignment, trained here or elsewhere: class token, layer scale, exact
//! or tanh GELU, final norm. Every layer is differentiable. Takes normalised images; what an encoder does to pixels
//! before is in `models/encoder`. Register tokens and SwiGLU (DINOv2-g) are not supported.

use crate::ml::nn::{self, LayerNorm, Linear};
use crate::ml::weights::xavier_uniform;
use candle_core::{Result, Tensor, bail};
use candle_nn::{Init, Module, VarBuilder};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the square input in pixels, a multiple of `patch_size`.
    pub image_size: usize,
    pub patch_size: usize,
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    /// Width of the hidden layer of the MLP, usually 4 `dim`.
    pub mlp_dim: usize,
    pub class_token: bool,
    /// A learned factor per channel after attention and MLP.
    pub layer_scale: bool,
    /// GELU by the error function; otherwise its tanh form, which is faster.
    pub exact_gelu: bool,
    /// Whether tokens pass the last LayerNorm (MAE's features do not).
    pub final_norm: bool,
    /// Of every LayerNorm.
    pub eps: f64,
}

impl VitConfig {
    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size.max(1)
    }

    /// Patch tokens of an image.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    pub fn check(&self) -> Result<()> {
        let Self { image_size, patch_size, dim, depth, heads, mlp_dim, .. } = *self;
        if [image_size, patch_size, dim, depth, heads, mlp_dim].contains(&0) {
            bail!("a size of the vision transformer is 0: {self:?}");
        }
        if image_size % patch_size != 0 {
            bail!("images of {image_size} pixels are not a multiple of the patch size {patch_size}");
        }
        if dim % heads != 0 {
            bail!("width {dim} is not a multiple of the number of heads {heads}");
        }
        Ok(())
    }
}

/// A vision transformer whose parameters come from a `VarBuilder`: trainable or loaded.
#[derive(Debug, Clone)]
pub struct Vit {
    config: VitConfig,
    patch_embed: Linear,
    cls_token: Option<Tensor>,
    pos_embed: Tensor,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
}

impl Vit {
    pub fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let dim = config.dim;
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        let prefix = usize::from(config.class_token);
        let cls_token = match config.class_token {
            true => Some(vb.get_with_hints((1, 1, dim), "cls_token", small)?),
            false => None,
        };
        let blocks = (0..config.depth).map(|i| Block::new(config, vb.pp("blocks").pp(i)));
        Ok(Self {
            patch_embed: patch_embed(config, vb.pp("patch_embed.proj"))?,
            cls_token,
            pos_embed: vb.get_with_hints((1, prefix + config.tokens(), dim), "pos_embed", small)?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: match config.final_norm {
                true => Some(LayerNorm::new(dim, config.eps, true, vb.pp("norm"))?),
                false => None,
            },
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Images `[n, 3, S, S]` to patch embeddings `[n, T, D]`, before positions.
    pub fn embed(&self, images: &Tensor) -> Result<Tensor> {
        let size = self.config.image_size;
        if images.dims()[1..] != [3, size, size] {
            bail!("the encoder takes images [n, 3, {size}, {size}], got {:?}", images.dims());
        }
        self.patch_embed.forward(&patchify(images, self.config.patch_size)?)
    }

    /// Patch embeddings `[n, T, D]` to all tokens `[n, prefix + T, D]`, the class token (if any) first.
    pub fn encode(&self, patches: &Tensor) -> Result<Tensor> {
        let x = match &self.cls_token {
            Some(cls) => Tensor::cat(&[&cls.broadcast_as((patches.dim(0)?, 1, self.config.dim))?, patches], 1)?,
            None => patches.clone(),
        };
        let mut x = x.broadcast_add(&self.pos_embed)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        match &self.norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    /// Patch tokens `[n, T, D]` of images `[n, 3, S, S]`, row by row of the grid, without the class token.
    pub fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        self.patches_of(&self.encode(&self.embed(images)?)?)
    }

    /// Drops the class token of what [`encode`](Self::encode) returns.
    pub fn patches_of(&self, tokens: &Tensor) -> Result<Tensor> {
        let prefix = usize::from(self.config.class_token);
        tokens.narrow(1, prefix, self.config.tokens())?.contiguous()
    }
}

/// Cuts `[n, C, H, W]` into `[n, T, C p p]`, patches row by row, each patch (channel, row, column).
pub fn patchify(images: &Tensor, p: usize) -> Result<Tensor> {
    let (n, c, h, w) = images.dims4()?;
    let x = images.reshape(&[n, c, h / p, p, w / p, p][..])?;
    x.permute(vec![0, 2, 4, 1, 3, 5])?.contiguous()?.reshape((n, (h / p) * (w / p), c * p * p))
}

/// The convolution with stride = kernel = patch, as a linear layer over flattened patches.
fn patch_embed(config: &VitConfig, vb: VarBuilder) -> Result<Linear> {
    let (p, dim) = (config.patch_size, config.dim);
    let fan_in = 3 * p * p;
    let weight = vb.get_with_hints((dim, 3, p, p), "weight", xavier_uniform(fan_in, dim))?;
    Ok(Linear::new(weight.reshape((dim, fan_in))?, vb.get_with_hints(dim, "bias", Init::Const(0.0))?))
}

#[derive(Debug, Clone)]
struct Block {
    heads: usize,
    exact_gelu: bool,
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    ls1: Option<Tensor>,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    ls2: Option<Tensor>,
}

impl Block {
    fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        let (dim, hidden) = (config.dim, config.mlp_dim);
        let scale = |name: &str| match config.layer_scale {
            true => vb.pp(name).get_with_hints(dim, "gamma", Init::Const(1.0)).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            heads: config.heads,
            exact_gelu: config.exact_gelu,
            norm1: LayerNorm::new(dim, config.eps, true, vb.pp("norm1"))?,
            qkv: nn::linear(dim, 3 * dim, vb.pp("attn.qkv"))?,
            proj: nn::linear(dim, dim, vb.pp("attn.proj"))?,
            ls1: scale("ls1")?,
            norm2: LayerNorm::new(dim, config.eps, true, vb.pp("norm2"))?,
            fc1: nn::linear(dim, hidden, vb.pp("mlp.fc1"))?,
            fc2: nn::linear(hidden, dim, vb.pp("mlp.fc2"))?,
            ls2: scale("ls2")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let attended = nn::attention(&self.qkv.forward(&self.norm1.forward(x)?)?, self.heads)?;
        let x = (x + scaled(self.proj.forward(&attended)?, &self.ls1)?)?;
        let hidden = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let hidden = if self.exact_gelu { nn::gelu_erf(&hidden)? } else { nn::gelu_tanh(&hidden)? };
        &x + scaled(self.fc2.forward(&hidden)?, &self.ls2)?
    }
}

fn scaled(x: Tensor, gamma: &Option<Tensor>) -> Result<Tensor> {
    match gamma {
        Some(g) => x.broadcast_mul(g),
        None => Ok(x),
    }
}
