//! Half precision with f32 master weights, in the same places as PyTorch's autocast: matrix
//! products and the values between them are in the half type; weights, their gradients, the
//! residual stream, norms, softmax, rotary embeddings, activations and losses are in f32.
//!
//! Layers do not know their computing type. A model casts the input of its first layer, and the
//! condition that modulates its blocks. The functions of [`crate::nn`] follow the type of their
//! input and call this file if it is half. So a block that is recomputed for its gradients uses the
//! same type as the first time, without a global mode like autocast's.
//!
//! Sums over many rows never run in the half type: adding 1024 ones in bf16 gives 256.

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

    /// The tensor in the type of the products; unchanged with [`Precision::F32`].
    pub fn lower(self, t: &Tensor) -> Result<Tensor> {
        self.half().map_or_else(|| Ok(t.clone()), |half| t.to_dtype(half))
    }

    /// Whether small gradients would underflow without loss scaling.
    pub fn needs_loss_scaling(self) -> bool {
        self == Self::F16
    }

    /// A remark for users who compute with it on the CPU.
    pub fn caveat(self, device: &Device) -> Option<&'static str> {
        (self != Self::F32 && device.is_cpu())
            .then_some("half precision is slower than f32 on the CPU, which computes in f32 and rounds")
    }
}

/// Whether a tensor has a half-precision type.
pub fn is_half(t: &Tensor) -> bool {
    matches!(t.dtype(), DType::BF16 | DType::F16)
}

/// The tensor in f32.
pub fn wide(t: &Tensor) -> Result<Tensor> {
    t.to_dtype(DType::F32)
}

/// f computed in f32, its result rounded back to the type of x.
pub fn widened(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&wide(x)?)?.to_dtype(x.dtype())
}
