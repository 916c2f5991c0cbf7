//! The transformer block of a SiT: attention and an MLP, whose norms and residuals are modulated by
//! the condition (adaLN-Zero).

use super::config::{NORM_EPS, ZERO};
use super::{MlpKind, NormKind, SiTConfig};
use crate::kernels;
use crate::kernels::autograd::checkpointed;
use crate::nn::{self, LayerNorm, Linear, RmsNorm};
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

/// Norms of queries and keys.
#[derive(Clone)]
enum QkNorm {
    None,
    Layer(LayerNorm, LayerNorm),
    Rms(RmsNorm, RmsNorm),
}

impl QkNorm {
    fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        let (q, k, d) = (vb.pp("q_norm"), vb.pp("k_norm"), cfg.head_dim());
        Ok(match (cfg.qk_norm, cfg.norm) {
            (false, _) => Self::None,
            (true, NormKind::Layer) => {
                let norm = |vb| LayerNorm::new(d, QK_NORM_EPS, true, vb);
                Self::Layer(norm(q)?, norm(k)?)
            }
            (true, NormKind::Rms) => Self::Rms(RmsNorm::new(d, NORM_EPS, q)?, RmsNorm::new(d, NORM_EPS, k)?),
        })
    }
}

#[derive(Clone)]
struct Attention {
    heads: usize,
    qkv: Linear,
    norms: QkNorm,
    proj: Linear,
}

impl Attention {
    fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            heads: cfg.heads,
            qkv: nn::linear(cfg.hidden, 3 * cfg.hidden, vb.pp("qkv"))?,
            norms: QkNorm::new(cfg, vb.clone())?,
            proj: nn::linear(cfg.hidden, cfg.hidden, vb.pp("proj"))?,
        })
    }

    /// Queries, keys and values `[B, N, 3 D]` as attention gets them.
    fn qkv(&self, x: &Tensor, rope: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
        let mut qkv = self.qkv.forward(x)?;
        qkv = match &self.norms {
            QkNorm::None => qkv,
            QkNorm::Layer(q, k) => nn::qk_norm(&qkv, self.heads, q, k)?,
            QkNorm::Rms(q, k) => nn::qk_norm(&qkv, self.heads, q, k)?,
        };
        if let Some((cos, sin)) = rope {
            qkv = nn::rope(&qkv, self.heads, cos, sin)?;
        }
        Ok(qkv)
    }

    fn forward(&self, x: &Tensor, rope: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
        self.proj.forward(&nn::attention(&self.qkv(x, rope)?, self.heads)?)
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

/// A norm whose result is modulated by the condition.
#[derive(Clone)]
pub enum AdaptiveNorm {
    /// LayerNorm without weights.
    Layer,
    Rms(RmsNorm),
}

impl AdaptiveNorm {
    pub fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        Ok(match cfg.norm {
            NormKind::Layer => Self::Layer,
            NormKind::Rms => Self::Rms(RmsNorm::new(cfg.hidden, NORM_EPS, vb)?),
        })
    }

    /// x `[B, N, D]` normalised, times 1 + scale, plus shift, both `[B, D]`.
    pub fn forward(&self, x: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Tensor> {
        match self {
            Self::Layer => nn::modulated_norm(x, shift, scale, NORM_EPS),
            Self::Rms(norm) => norm.modulated(x, shift, scale),
        }
    }
}

/// A transformer block whose norms and residuals are modulated by the condition (adaLN-Zero).
#[derive(Clone)]
pub struct Block {
    norms: [AdaptiveNorm; 2],
    attn: Attention,
    mlp: Mlp,
    modulation: Linear,
}

impl Block {
    pub fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norms: [AdaptiveNorm::new(cfg, vb.pp("norm1"))?, AdaptiveNorm::new(cfg, vb.pp("norm2"))?],
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

    /// The scores of the block's attention, f32 `[B, H, N, N]`. They are computed again beside
    /// [`forward`](Self::forward), whose fused operation keeps none.
    pub fn attention_scores(&self, x: &Tensor, c: &Tensor, rope: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
        let [shift, scale, ..] = chunks::<6>(&self.modulation.forward(c)?)?;
        let qkv = self.attn.qkv(&self.norms[0].forward(x, &shift, &scale)?, rope)?;
        nn::attention_scores(&qkv, self.attn.heads)
    }

    /// Operation by operation, on any device and in any type.
    fn plain(&self, x: &Tensor, modulation: &Tensor, rope: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
        let [shift1, scale1, gate1, shift2, scale2, gate2] = chunks(modulation)?;
        let y = self.attn.forward(&self.norms[0].forward(x, &shift1, &scale1)?, rope)?;
        let x = nn::gated_residual(x, &gate1, &y)?;
        let y = self.mlp.forward(&self.norms[1].forward(&x, &shift2, &scale2)?)?;
        nn::gated_residual(&x, &gate2, &y)
    }

    /// The weights for the fused block, which needs LayerNorms and a GELU MLP.
    fn fused(&self, rope: Option<&(Tensor, Tensor)>) -> Option<kernels::block::Weights> {
        let (Mlp::Gelu { fc1, fc2 }, AdaptiveNorm::Layer) = (&self.mlp, &self.norms[0]) else { return None };
        let qk_norm = match &self.attn.norms {
            QkNorm::None => None,
            QkNorm::Layer(q, k) => Some(([q.into(), k.into()], QK_NORM_EPS as f32)),
            QkNorm::Rms(..) => return None,
        };
        Some(kernels::block::Weights {
            qkv: (&self.attn.qkv).into(),
            proj: (&self.attn.proj).into(),
            fc1: fc1.into(),
            fc2: fc2.into(),
            qk_norm,
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
