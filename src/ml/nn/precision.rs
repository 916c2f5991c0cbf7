//! Half precision with f32 master weights, at the places where PyTorch's autocast has it: matrix products and what lies
//! between them in the half type; weights, their gradients, the residual stream, norms, softmax, rotations, activation
//! functions and losses in f32.
//!
//! No layer knows the type it computes in. A model casts what it hands to its first layer and the condition that modulates
//! its blocks; the functions of [`crate::nn`] go by the type of what they are given and call this file when it is half. So
//! a block that is run again for its gradients computes in the type of the first time, which a mode set from outside, as
//! autocast is, would have to be told.
//!
//! Sums over many rows never run in the half type: 1024 ones added up in bf16 are 256.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

/// The type of a network's matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// The range of f32 with 8 bits of precision.
    Bf16,
    /// 11 bits of precision up to 65504: gradients need loss scaling.
    F16,
}

impl Precision {
    fn half(self) -> Option<DType> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(DType::BF16),
            Self::F16 => Some(DType::F16),
        }
    }

    /// The tensor in the type of the products; as it is with [`Precision::F32`].
    pub fn lower(self, t: &Tensor) -> Result<Tensor> {
        self.half().map_or_else(|| Ok(t.clone()), |half| t.to_dtype(half))
    }

    /// Whether small gradients would vanish without loss scaling.
    pub fn needs_loss_scaling(self) -> bool {
        self == Self::F16
    }

    /// What to tell a user who computes with it on the CPU.
    pub fn caveat(self, device: &Device) -> Option<&'static str> {
        (self != Self::F32 && device.is_cpu())
            .then_some("half precision is slower than f32 on the CPU, which rounds where a GPU would compute in it")
    }
}

pub fn is_half(t: &Tensor) -> bool {
    matches!(t.dtype(), DType::BF16 | DType::F16)
}

pub fn wide(t: &Tensor) -> Result<Tensor> {
    t.to_dtype(DType::F32)
}

/// f in f32, its result rounded back to the type of x.
pub fn widened(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&wide(x)?)?.to_dtype(x.dtype())
}
