//! The transformer block of a SiT: attention and an MLP, whose norms and residuals are modulated by
//! the condition (adaLN-Zero).

use super::config::{NORM_EPS, ZERO};
use super::{MlpKind, SiTConfig};
use crate::kernels;
use crate::kernels::autograd::checkpointed;
use crate::nn::{self, LayerNorm, Linear};
use candle_core::{Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};

pub(crate) const QK_NORM_EPS: f64 = 1e-5;

/// What a block saves for its backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SavedActivations {
    /// All values that would otherwise be recomputed.
    #[default]
    Everything,
    /// Only its inputs: activation checkpointing.
    Inputs,
}

#[derive(Clone)]
struct Attention {
    heads: usize,
    qkv: Linear,
    norms: Option<(LayerNorm, LayerNorm)>,
    proj: Linear,
}

impl Attention {
    fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        let norm = |name| LayerNorm::new(cfg.head_dim(), QK_NORM_EPS, true, vb.pp(name));
        Ok(Self {
            heads: cfg.heads,
            qkv: nn::linear(cfg.hidden, 3 * cfg.hidden, vb.pp("qkv"))?,
            norms: if cfg.qk_norm { Some((norm("q_norm")?, norm("k_norm")?)) } else { None },
            proj: nn::linear(cfg.hidden, cfg.hidden, vb.pp("proj"))?,
        })
    }

    fn forward(&self, x: &Tensor, rope: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
        let mut qkv = self.qkv.forward(x)?;
        if let Some((q_norm, k_norm)) = &self.norms {
            qkv = nn::qk_norm(&qkv, self.heads, q_norm, k_norm)?;
        }
        if let Some((cos, sin)) = rope {
            qkv = nn::rope(&qkv, self.heads, cos, sin)?;
        }
        self.proj.forward(&nn::attention(&qkv, self.heads)?)
    }
}

#[derive(Clone)]
enum Mlp {
    Gelu { fc1: Linear, fc2: Linear },
    SwiGlu { w12: Linear, w3: Linear },
}

impl Mlp {
    fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        let inner = cfg.mlp_width();
        Ok(match cfg.mlp {
            MlpKind::Gelu => Self::Gelu {
                fc1: nn::linear(cfg.hidden, inner, vb.pp("fc1"))?,
                fc2: nn::linear(inner, cfg.hidden, vb.pp("fc2"))?,
            },
            MlpKind::SwiGlu => Self::SwiGlu {
                w12: nn::linear(cfg.hidden, 2 * inner, vb.pp("w12"))?,
                w3: nn::linear(inner, cfg.hidden, vb.pp("w3"))?,
            },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu { fc1, fc2 } => fc2.forward(&nn::gelu_tanh(&fc1.forward(x)?)?),
            Self::SwiGlu { w12, w3 } => w3.forward(&nn::swiglu(&w12.forward(x)?)?),
        }
    }
}

/// A transformer block whose norms and residuals are modulated by the condition (adaLN-Zero).
#[derive(Clone)]
pub struct Block {
    attn: Attention,
    mlp: Mlp,
    modulation: Linear,
}

impl Block {
    pub fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            attn: Attention::new(cfg, vb.pp("attn"))?,
            mlp: Mlp::new(cfg, vb.pp("mlp"))?,
            modulation: nn::linear_with(cfg.hidden, 6 * cfg.hidden, ZERO, ZERO, vb.pp("adaLN_modulation.1"))?,
        })
    }

    /// `c` is the condition after its activation, `[B, D]`.
    pub fn forward(
        &self,
        x: &Tensor,
        c: &Tensor,
        rope: Option<&(Tensor, Tensor)>,
        keep: SavedActivations,
    ) -> Result<Tensor> {
        let modulation = self.modulation.forward(c)?;
        if let Some(weights) = self.fused(rope)
            && weights.suits(&[x, &modulation])
        {
            let op =
                kernels::block::Block::new(weights, self.attn.heads, NORM_EPS as f32, keep == SavedActivations::Inputs);
            return x.contiguous()?.apply_op2(&modulation.contiguous()?, op);
        }
        match keep {
            // A view of x, so that the block's gradients are summed among themselves first, as in
            // the fused block.
            SavedActivations::Everything => self.plain(&x.reshape(x.dims())?, &modulation, rope),
            SavedActivations::Inputs => {
                let (block, rope) = (self.clone(), rope.cloned());
                checkpointed(x, &modulation, move |x, modulation| block.plain(x, modulation, rope.as_ref()))
            }
        }
    }

    /// Operation by operation, on any device and in any type.
    fn plain(&self, x: &Tensor, modulation: &Tensor, rope: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
        let [shift1, scale1, gate1, shift2, scale2, gate2] = chunks(modulation)?;
        let y = self.attn.forward(&nn::modulated_norm(x, &shift1, &scale1, NORM_EPS)?, rope)?;
        let x = nn::gated_residual(x, &gate1, &y)?;
        let y = self.mlp.forward(&nn::modulated_norm(&x, &shift2, &scale2, NORM_EPS)?)?;
        nn::gated_residual(&x, &gate2, &y)
    }

    /// The weights for the fused block, which needs a GELU MLP.
    fn fused(&self, rope: Option<&(Tensor, Tensor)>) -> Option<kernels::block::Weights> {
        let Mlp::Gelu { fc1, fc2 } = &self.mlp else { return None };
        Some(kernels::block::Weights {
            qkv: (&self.attn.qkv).into(),
            proj: (&self.attn.proj).into(),
            fc1: fc1.into(),
            fc2: fc2.into(),
            qk_norm: self.attn.norms.as_ref().map(|(q, k)| ([q.into(), k.into()], QK_NORM_EPS as f32)),
            rope: rope.map(|(cos, sin)| [cos.clone(), sin.clone()]),
        })
    }
}

/// N equal parts of `[B, N D]`.
pub fn chunks<const N: usize>(x: &Tensor) -> Result<[Tensor; N]> {
    match x.chunk(N, 1)?.try_into() {
        Ok(parts) => Ok(parts),
        Err(parts) => bail!("expected {N} modulations, got {}", parts.len()),
    }
}
