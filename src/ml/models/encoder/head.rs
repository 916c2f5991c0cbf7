//! CLIP's projection of the class token.

use crate::models::vit::VitConfig;
use crate::nn::params::Tensors;
use crate::nn::{LayerNorm, Linear};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Names of a [`Head`]'s tensors.
pub(crate) const HEAD: [&str; 3] = ["norm_post.weight", "norm_post.bias", "head.weight"];

/// CLIP's norm of the class token, and its projection `[width, D]` into the space shared by images
/// and texts.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) norm: LayerNorm,
    pub(crate) projection: Linear,
    pub(crate) width: usize,
}

impl Head {
    pub(crate) fn new(vit: &VitConfig, width: usize, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get((width, vit.dim), HEAD[2])?;
        let bias = Tensor::zeros(width, weight.dtype(), weight.device())?;
        let norm = LayerNorm::new(vit.dim, vit.eps, true, vb.pp("norm_post"))?;
        Ok(Self { norm, projection: Linear::new(weight, bias), width })
    }
}

/// Whether files of this transformer include a [`Head`], as CLIP's do.
pub(crate) fn has_head(vit: &VitConfig) -> bool {
    vit.pre_norm && !vit.final_norm
}

/// Dimension of the embedding by the head in `tensors`, if the head is complete.
pub(crate) fn head_width(vit: &VitConfig, tensors: &Tensors) -> Option<usize> {
    let whole = has_head(vit) && HEAD.iter().all(|name| tensors.contains_key(*name));
    whole.then(|| tensors[HEAD[2]].dims().first().copied()).flatten()
}
