//! The head between SiT tokens and an encoder's features.
//!
//! ```text
//! mlp    Linear-SiLU-Linear-SiLU-Linear on every token (REPA, arXiv 2410.06940, section 3.2): 0, 2, 4
//! conv3  a 3x3 convolution on the grid of tokens (iREPA, arXiv 2512.10794): projection_layer
//! ```
//!
//! The convolution sees a token's neighbours, which is where iREPA finds what is worth aligning. Names are those of the
//! released checkpoints of either work; the numbers are positions in the original's sequence, in which activations count.

use crate::kernels::conv::{Conv2d, Padding};
use crate::kernels::mlp::Mlp;
use crate::nn::{self, Linear};
use candle_core::{Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};
use serde::{Deserialize, Serialize};

/// Which head.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjectorKind {
    #[default]
    Mlp,
    Conv3,
}

pub enum Projector {
    Mlp([Linear; 3]),
    Conv3(Conv2d),
}

impl Projector {
    /// From tokens of `hidden` numbers to features of `features`; `width` is that of the MLP between.
    pub fn new(kind: ProjectorKind, hidden: usize, width: usize, features: usize, vb: VarBuilder) -> Result<Self> {
        Ok(match kind {
            ProjectorKind::Mlp => Self::Mlp([
                nn::linear(hidden, width, vb.pp("0"))?,
                nn::linear(width, width, vb.pp("2"))?,
                nn::linear(width, features, vb.pp("4"))?,
            ]),
            // PyTorch's initial values of a convolution, which iREPA leaves as they are.
            ProjectorKind::Conv3 => {
                let padding = Padding::symmetric(1, 1);
                Self::Conv3(Conv2d::new(hidden, features, 3, 1, padding, vb.pp("projection_layer"))?)
            }
        })
    }
}

impl Module for Projector {
    /// `[B, N, hidden]` to `[B, N, features]`; for a convolution, N is that of a square grid, row by row.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Mlp(layers) => {
                let op = Mlp::new(layers.iter().map(Into::into).collect());
                if op.suits(x) {
                    return x.contiguous()?.apply_op1(op);
                }
                let x = nn::silu(&layers[0].forward(x)?)?;
                let x = nn::silu(&layers[1].forward(&x)?)?;
                layers[2].forward(&x)
            }
            Self::Conv3(conv) => {
                let (b, n, d) = x.dims3()?;
                let side = n.isqrt();
                if side * side != n {
                    bail!("{n} tokens are no square grid");
                }
                let grid = x.transpose(1, 2)?.contiguous()?.reshape((b, d, side, side))?;
                conv.forward(&grid)?.flatten_from(2)?.transpose(1, 2)?.contiguous()
            }
        }
    }
}
