//! Differentiable layers: thin wrappers that choose between a fused CPU kernel and plain candle
//! operations.
//!
//! The plain versions run on other devices and in other dtypes, and are the reference for the
//! kernels' gradients in tests. candle-nn's fused LayerNorm, softmax and rotary functions have no
//! backward pass and silently cut the gradient, so nothing here calls them. This file does not know
//! models.

pub mod elsewhere;
pub mod params;
pub mod precision;
pub mod unfused;

use crate::kernels::activation::Activation;
use crate::kernels::attention::Attention;
use crate::kernels::gated_residual::GatedResidual;
use crate::kernels::linear::Affine;
use crate::kernels::norm::NormAffine;
use crate::kernels::rope::Rope;
use crate::kernels::{self, swiglu};
use candle_core::{Device, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use params::xavier_uniform;
use precision::{is_half, wide, widened};

/// y = x W^T + b.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Weight `[out, in]`, bias `[out]`.
    pub fn new(weight: Tensor, bias: Tensor) -> Self {
        Self { weight, bias }
    }
}

impl From<&Linear> for Affine {
    fn from(l: &Linear) -> Self {
        Self { weight: l.weight.clone(), bias: l.bias.clone() }
    }
}

impl Module for Linear {
    /// `[.., in]` to `[.., out]`, in the type of x.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_half(x) { half_linear(x, &self.weight, &self.bias) } else { product(x, &self.weight, &self.bias) }
    }
}

/// x W^T + b of one type.
fn product(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if kernels::suits(&[x, weight, bias]) {
        x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, kernels::linear::Linear)
    } else {
        unfused::linear(x, weight, bias)
    }
}

/// A linear layer with a Xavier-uniform weight and a zero bias, named `weight` and `bias`.
pub fn linear(n_in: usize, n_out: usize, vb: VarBuilder) -> Result<Linear> {
    linear_with(n_in, n_out, xavier_uniform(n_in, n_out), Init::Const(0.0), vb)
}

/// A linear layer with given initial values.
pub fn linear_with(n_in: usize, n_out: usize, weight: Init, bias: Init, vb: VarBuilder) -> Result<Linear> {
    Ok(Linear::new(vb.get_with_hints((n_out, n_in), "weight", weight)?, vb.get_with_hints(n_out, "bias", bias)?))
}

/// LayerNorm over the last axis.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// With `affine`, it has parameters `weight` (ones) and `bias` (zeros) of `dim` values.
    pub fn new(dim: usize, eps: f64, affine: bool, vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = if affine {
            (vb.get_with_hints(dim, "weight", Init::Const(1.0))?, vb.get_with_hints(dim, "bias", Init::Const(0.0))?)
        } else {
            (Tensor::ones(dim, vb.dtype(), vb.device())?, Tensor::zeros(dim, vb.dtype(), vb.device())?)
        };
        Ok(Self { weight, bias, eps })
    }
}

impl From<&LayerNorm> for Affine {
    fn from(n: &LayerNorm) -> Self {
        Self { weight: n.weight.clone(), bias: n.bias.clone() }
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_half(x) {
            return widened(x, |x| norm_affine(x, &self.bias, &self.weight, 0.0, self.eps, true));
        }
        norm_affine(x, &self.bias, &self.weight, 0.0, self.eps, true)
    }
}

/// RMSNorm over the last axis (arXiv 1910.07467): no mean is subtracted, and there is no bias.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// With the parameter `weight` (ones) of `dim` values.
    pub fn new(dim: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        Ok(Self { weight: vb.get_with_hints(dim, "weight", Init::Const(1.0))?, eps })
    }

    /// The norm of x `[B, N, D]` with its weight, then y (1 + scale) + shift with shift and scale
    /// `[B, D]`. Computed in f32 and rounded to the type of the shift, as by [`modulated_norm`].
    pub fn modulated(&self, x: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Tensor> {
        if is_half(shift) {
            return self.modulated(x, &wide(shift)?, &wide(scale)?)?.to_dtype(shift.dtype());
        }
        let gain = (scale + 1.0)?.broadcast_mul(&self.weight)?;
        norm_affine(x, shift, &gain, 0.0, self.eps, false)
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_half(x) {
            return widened(x, |x| self.forward(x));
        }
        norm_affine(x, &self.weight.zeros_like()?, &self.weight, 0.0, self.eps, false)
    }
}

/// adaLN: LayerNorm of x `[B, N, D]` without weights, then x̂ (1 + scale) + shift with shift and
/// scale `[B, D]`. With half-precision shift and scale it is computed in f32 and rounded to their
/// type.
pub fn modulated_norm(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
    if is_half(shift) {
        return norm_affine(x, &wide(shift)?, &wide(scale)?, 1.0, eps, true)?.to_dtype(shift.dtype());
    }
    norm_affine(x, shift, scale, 1.0, eps, true)
}

fn norm_affine(x: &Tensor, shift: &Tensor, scale: &Tensor, offset: f64, eps: f64, centred: bool) -> Result<Tensor> {
    if kernels::suits(&[x, shift, scale]) {
        let op = NormAffine { offset: offset as f32, eps: eps as f32, centred };
        x.contiguous()?.apply_op3(&shift.contiguous()?, &scale.contiguous()?, op)
    } else {
        unfused::norm_affine(x, shift, scale, offset, eps, centred)
    }
}

/// x + gate * y with x and y `[B, N, D]` and gate `[B, D]`, in the type of x.
pub fn gated_residual(x: &Tensor, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
    if is_half(y) {
        gated_residual(x, &wide(gate)?, &wide(y)?)
    } else if kernels::suits(&[x, gate, y]) {
        x.contiguous()?.apply_op3(&gate.contiguous()?, &y.contiguous()?, GatedResidual)
    } else {
        unfused::gated_residual(x, gate, y)
    }
}

/// x + gamma * y with x and y `[B, N, D]` and gamma `[D]`: a residual with LayerScale.
pub fn scaled_residual(x: &Tensor, gamma: &Tensor, y: &Tensor) -> Result<Tensor> {
    // One sample of B N tokens with gamma as gate.
    let (b, n, d) = x.dims3()?;
    let all = |t: &Tensor| t.reshape((1, b * n, d));
    gated_residual(&all(x)?, &gamma.reshape((1, d))?, &all(y)?)?.reshape((b, n, d))
}

/// Softmax attention: qkv `[B, N, 3 H D]` in the order (3, H, D) to `[B, N, H D]`, scores scaled by
/// 1 / sqrt(D).
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    if is_half(qkv) {
        return half_attention(qkv, heads);
    }
    if kernels::suits(&[qkv]) {
        qkv.contiguous()?.apply_op1(Attention::new(heads))
    } else {
        unfused::attention(qkv, heads)
    }
}

/// The scores of [`attention`] before the softmax, f32 `[B, H, N, N]`: a row per query.
pub fn attention_scores(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, width) = qkv.dims3()?;
    let d = width / 3 / heads;
    let parts = wide(qkv)?.reshape((b, n, 3, heads, d))?.permute((2, 0, 3, 1, 4))?;
    let part = |i: usize| parts.get(i)?.contiguous();
    part(0)?.matmul(&part(1)?.transpose(2, 3)?.contiguous()?)? * (1.0 / (d as f64).sqrt())
}

/// Rotates the queries and keys of qkv `[B, N, 3 H D]` by tables `[N, D]`. Neighbouring channels
/// form a plane.
pub fn rope(qkv: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    if is_half(qkv) {
        widened(qkv, |qkv| rope(qkv, heads, cos, sin))
    } else if kernels::suits(&[qkv, cos, sin]) {
        qkv.contiguous()?.apply_op1(Rope { heads, cos: cos.contiguous()?, sin: sin.contiguous()? })
    } else {
        unfused::rope(qkv, heads, cos, sin)
    }
}

/// The same with other planes: channel i of a head with channel i + D / 2, by tables `[N, D / 2]`.
/// For frozen networks: no kernel fuses it.
pub fn rope_halves(qkv: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (b, n, width) = qkv.dims3()?;
    let half = width / 3 / heads / 2;
    let parts = qkv.reshape((b, n, 3 * heads, 2 * half))?;
    let (qk, v) = (parts.narrow(2, 0, 2 * heads)?, parts.narrow(2, 2 * heads, heads)?);
    let (x, y) = (qk.narrow(3, 0, half)?, qk.narrow(3, half, half)?);
    let (cos, sin) = (cos.reshape((1, n, 1, half))?, sin.reshape((1, n, 1, half))?);
    let turned_x = (x.broadcast_mul(&cos)? - y.broadcast_mul(&sin)?)?;
    let turned_y = (y.broadcast_mul(&cos)? + x.broadcast_mul(&sin)?)?;
    Tensor::cat(&[Tensor::cat(&[turned_x, turned_y], 3)?, v], 2)?.reshape((b, n, width))
}

/// Normalises the queries and keys of qkv `[B, N, 3 H D]` per head.
pub fn qk_norm(qkv: &Tensor, heads: usize, q_norm: &impl Module, k_norm: &impl Module) -> Result<Tensor> {
    let (b, n, width) = qkv.dims3()?;
    let parts = qkv.reshape((b, n, 3, heads, width / 3 / heads))?;
    let part = |i: usize| parts.narrow(2, i, 1)?.contiguous();
    let (q, k) = (q_norm.forward(&part(0)?)?, k_norm.forward(&part(1)?)?);
    Tensor::cat(&[q, k, part(2)?], 2)?.reshape((b, n, width))
}

/// GELU, tanh form.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    // candle's derivative cubes x: in f16 it is NaN from x = 40 on.
    if is_half(x) {
        return widened(x, gelu_tanh);
    }
    if kernels::suits(&[x]) { x.contiguous()?.apply_op1(Activation::GeluTanh) } else { x.gelu() }
}

/// GELU, exact form.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    if kernels::suits(&[x]) { x.contiguous()?.apply_op1(Activation::GeluErf) } else { x.gelu_erf() }
}

/// CLIP's approximation of GELU, x sigmoid(1.702 x).
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if kernels::suits(&[x]) { x.contiguous()?.apply_op1(Activation::QuickGelu) } else { unfused::quick_gelu(x) }
}

/// SiLU of the first half of the channels times the second half, `[.., 2 H]` to `[.., H]`.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    if kernels::suits(&[x]) { x.contiguous()?.apply_op1(swiglu::SwiGlu) } else { unfused::swiglu(x) }
}

/// x sigmoid(x)
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if is_half(x) {
        return widened(x, silu);
    }
    if kernels::suits(&[x]) { x.contiguous()?.apply_op1(Activation::Silu) } else { x.silu() }
}

/// x W^T + b in the type of x, for an f32 weight and bias. candle has no bf16 products on the CPU.
/// An f32 product of rounded values, rounded, is what a GPU computes.
fn half_linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (weight, bias) = (weight.to_dtype(x.dtype())?, bias.to_dtype(x.dtype())?);
    match x.device() {
        Device::Cpu => widened(x, |x| product(x, &wide(&weight)?, &wide(&bias)?)),
        _ => unfused::half_linear(x, &weight, &bias),
    }
}

/// [`attention`] for half-precision queries, keys and values.
fn half_attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    match qkv.device() {
        Device::Cpu => widened(qkv, |qkv| attention(qkv, heads)),
        _ => unfused::half_attention(qkv, heads),
    }
}
