//! The projector from SiT tokens to an encoder's features.
//!
//! ```text
//! mlp    Linear-SiLU-Linear-SiLU-Linear per token (REPA, arXiv 2410.06940, section 3.2): 0, 2, 4
//! conv3  a 3x3 convolution on the grid of tokens (iREPA, arXiv 2512.10794): projection_layer
//! ```
//!
//! The convolution also sees neighbouring tokens: iREPA aligns spatial structure. Parameter names
//! are those of the published checkpoints. The numbers are positions in a sequence that includes
//! the activations.

use crate::kernels::conv::{Conv2d, Padding};
use crate::kernels::mlp::Mlp;
use crate::nn::{self, Linear};
use candle_core::{Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};
use serde::{Deserialize, Serialize};

/// The kind of projector.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjectorKind {
    #[default]
    Mlp,
    Conv3,
}

/// The head of SRA (arXiv 2505.02831), from tokens of one block to those of another:
/// Linear-SiLU-Linear, twice as wide inside, `linear1` and `linear2` as in its authors' code.
pub struct SelfAlignmentHead {
    layers: [Linear; 2],
}

impl SelfAlignmentHead {
    pub fn new(hidden: usize, vb: VarBuilder) -> Result<Self> {
        let layer = |n_in, n_out, name| nn::linear(n_in, n_out, vb.pp(name));
        Ok(Self { layers: [layer(hidden, 2 * hidden, "linear1")?, layer(2 * hidden, hidden, "linear2")?] })
    }
}

impl Module for SelfAlignmentHead {
    /// `[B, N, hidden]` to the same.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layers[1].forward(&nn::silu(&self.layers[0].forward(x)?)?)
    }
}

/// The head of SRA 2 (arXiv 2601.17830), from tokens of a block to the clean latents of their
/// patches: five layers with SiLU between them. Twice as wide inside as the tokens, as SRA's: that
/// makes the 18 million weights that its table of costs tells for XL.
pub struct LatentHead {
    layers: Vec<Linear>,
}

impl LatentHead {
    /// `outputs` numbers for each token of width `hidden`.
    pub fn new(hidden: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let inner = 2 * hidden;
        let sizes = [hidden, inner, inner, inner, inner, outputs];
        let layer = |(i, w): (usize, &[usize])| nn::linear(w[0], w[1], vb.pp(2 * i));
        Ok(Self { layers: sizes.windows(2).enumerate().map(layer).collect::<Result<_>>()? })
    }
}

impl Module for LatentHead {
    /// `[B, N, hidden]` to `[B, N, outputs]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&if i == 0 { x } else { nn::silu(&x)? })?;
        }
        Ok(x)
    }
}

/// A projector with its parameters.
pub enum Projector {
    Mlp([Linear; 3]),
    Conv3(Conv2d),
}

impl Projector {
    /// From tokens of dimension `hidden` to features of dimension `features`; `width` is that of
    /// the hidden MLP layers.
    pub fn new(kind: ProjectorKind, hidden: usize, width: usize, features: usize, vb: VarBuilder) -> Result<Self> {
        Ok(match kind {
            ProjectorKind::Mlp => Self::Mlp([
                nn::linear(hidden, width, vb.pp("0"))?,
                nn::linear(width, width, vb.pp("2"))?,
                nn::linear(width, features, vb.pp("4"))?,
            ]),
            // PyTorch's default initialisation of a convolution, which iREPA keeps.
            ProjectorKind::Conv3 => {
                let padding = Padding::symmetric(1, 1);
                Self::Conv3(Conv2d::new(hidden, features, 3, 1, padding, vb.pp("projection_layer"))?)
            }
        })
    }
}

impl Module for Projector {
    /// `[B, N, hidden]` to `[B, N, features]`. For a convolution the N tokens form a square grid,
    /// row by row.
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
                    bail!("{n} tokens do not form a square grid");
                }
                let grid = x.transpose(1, 2)?.contiguous()?.reshape((b, d, side, side))?;
                conv.forward(&grid)?.flatten_from(2)?.transpose(1, 2)?.contiguous()
            }
        }
    }
}
