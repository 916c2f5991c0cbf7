//! The transformer block of a SiT: attention and an MLP, whose norms and residuals the condition modulates (adaLN-Zero).

use super::{MlpKind, NORM_EPS, SiTConfig, ZERO};
use crate::ml::nn::{self, LayerNorm, Linear};
use candle_core::{Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};

const QK_NORM_EPS: f64 = 1e-5;

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

    /// `c` is the activated condition `[B, D]`.
    pub fn forward(&self, x: &Tensor, c: &Tensor, rope: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
        let [shift1, scale1, gate1, shift2, scale2, gate2] = chunks(&self.modulation.forward(c)?)?;
        let y = self.attn.forward(&nn::modulated_norm(x, &shift1, &scale1, NORM_EPS)?, rope)?;
        let x = nn::gated_residual(x, &gate1, &y)?;
        let y = self.mlp.forward(&nn::modulated_norm(&x, &shift2, &scale2, NORM_EPS)?)?;
        nn::gated_residual(&x, &gate2, &y)
    }
}

/// N equal parts of `[B, N D]`.
pub fn chunks<const N: usize>(x: &Tensor) -> Result<[Tensor; N]> {
    match x.chunk(N, 1)?.try_into() {
        Ok(parts) => Ok(parts),
        Err(parts) => bail!("{} modulations where there should be {N}", parts.len()),
    }
}
