//! The head between SiT tokens and an encoder's features: Linear-SiLU-Linear-SiLU-Linear on every token
//! (REPA, arXiv 2410.06940, section 3.2).

use crate::ml::kernels::{block::Affine, mlp::Mlp};
use crate::ml::nn::{self, Linear};
use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};

pub struct Projector {
    layers: [Linear; 3],
}

impl Projector {
    /// Names `0`, `2`, `4`: positions in the original's sequence, in which activations count.
    pub fn new(hidden: usize, width: usize, features: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            layers: [
                nn::linear(hidden, width, vb.pp("0"))?,
                nn::linear(width, width, vb.pp("2"))?,
                nn::linear(width, features, vb.pp("4"))?,
            ],
        })
    }
}

impl Module for Projector {
    /// `[B, N, hidden]` to `[B, N, features]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let affine = |l: &Linear| Affine { weight: l.weight().clone(), bias: l.bias().clone() };
        let op = Mlp::new(self.layers.iter().map(affine).collect());
        if op.suits(x) {
            return x.contiguous()?.apply_op1(op);
        }
        let x = nn::silu(&self.layers[0].forward(x)?)?;
        let x = nn::silu(&self.layers[1].forward(&x)?)?;
        self.layers[2].forward(&x)
    }
}
