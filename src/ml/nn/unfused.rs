//! The functions of [`crate::nn`], built from candle's own operations for any device and dtype.

use super::precision::widened;
use candle_core::{D, Result, Tensor, bail};

/// x W^T + b for x `[.., in]`, W `[out, in]`, b `[out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (n_out, n_in) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == n_in => *last = n_out,
        _ => bail!("a linear layer of {n_in} inputs got a tensor {:?}", x.dims()),
    }
    x.reshape(((), n_in))?.matmul(&weight.t()?)?.broadcast_add(bias)?.reshape(dims)
}

/// [`linear`] in a half type. The bias is added as a product with a column of ones: GPUs sum the
/// gradient of a product in f32, but that of a broadcast in the half type.
pub fn half_linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (n_out, n_in) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == n_in => *last = n_out,
        _ => bail!("a linear layer of {n_in} inputs got a tensor {:?}", x.dims()),
    }
    let rows = x.reshape(((), n_in))?;
    let ones = Tensor::ones((rows.dim(0)?, 1), x.dtype(), x.device())?;
    (rows.matmul(&weight.t()?)? + ones.matmul(&bias.unsqueeze(0)?)?)?.reshape(dims)
}

/// LayerNorm over the last axis, or RMSNorm if it is not `centred`, then times (scale + offset),
/// plus shift. Shift and scale are `[D]`, or `[B, D]` for x `[B, .., D]`.
pub fn norm_affine(x: &Tensor, shift: &Tensor, scale: &Tensor, offset: f64, eps: f64, centred: bool) -> Result<Tensor> {
    let centred = if centred { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x.clone() };
    let rms = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let per_sample = |t: &Tensor| {
        let mut dims = vec![1; x.rank()];
        dims[x.rank() - 1] = t.dim(D::Minus1)?;
        if t.rank() == 2 {
            dims[0] = t.dim(0)?;
        }
        t.reshape(dims)
    };
    let gain = (per_sample(scale)? + offset)?;
    centred.broadcast_div(&rms)?.broadcast_mul(&gain)?.broadcast_add(&per_sample(shift)?)
}

/// x + gate * y with x and y `[B, N, D]` and gate `[B, D]`.
pub fn gated_residual(x: &Tensor, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
    x + y.broadcast_mul(&gate.unsqueeze(1)?)?
}

/// x sigmoid(1.702 x).
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x / ((x * -1.702)?.exp()? + 1.0)?
}

/// SiLU of the first half of the channels times the second half, `[.., 2 H]` to `[.., H]`.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    x.narrow(D::Minus1, 0, half)?.silu()? * x.narrow(D::Minus1, half, half)?
}

/// [`attention`] in a half type: products in that type, queries scaled first so that scores do not
/// overflow, softmax in f32.
pub fn half_attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, width) = qkv.dims3()?;
    let d = width / 3 / heads;
    let parts = qkv.reshape((b, n, 3, heads, d))?.permute((2, 0, 3, 1, 4))?;
    let part = |i: usize| parts.get(i)?.contiguous();
    let queries = (part(0)? * (1.0 / (d as f64).sqrt()))?;
    let scores = queries.matmul(&part(1)?.transpose(2, 3)?.contiguous()?)?;
    let shares = widened(&scores, softmax)?;
    shares.matmul(&part(2)?)?.transpose(1, 2)?.reshape((b, n, heads * d))
}

/// Softmax attention: qkv `[B, N, 3 H D]` in the order (3, H, D) to `[B, N, H D]`.
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, width) = qkv.dims3()?;
    let d = width / 3 / heads;
    let parts = qkv.reshape((b, n, 3, heads, d))?.permute((2, 0, 3, 1, 4))?;
    let part = |i: usize| parts.get(i)?.contiguous();
    let scores = (part(0)?.matmul(&part(1)?.transpose(2, 3)?.contiguous()?)? * (1.0 / (d as f64).sqrt()))?;
    let mixed = softmax(&scores)?.matmul(&part(2)?)?;
    mixed.transpose(1, 2)?.reshape((b, n, heads * d))
}

/// Softmax over the last axis. The largest score is subtracted as a constant, because its
/// contribution to the gradient is 0 and would cost six passes over all scores.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let shares = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)
}

/// Rotates the queries and keys of qkv `[B, N, 3 H D]` by tables `[N, D]`.
pub fn rope(qkv: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (b, n, width) = qkv.dims3()?;
    let d = width / 3 / heads;
    let parts = qkv.reshape((b, n, 3 * heads, d))?;
    let (qk, v) = (parts.narrow(2, 0, 2 * heads)?, parts.narrow(2, 2 * heads, heads)?);
    let pairs = qk.contiguous()?.reshape((b, n, 2 * heads, d / 2, 2))?;
    let (even, odd) = (pairs.narrow(4, 0, 1)?, pairs.narrow(4, 1, 1)?);
    let turned = Tensor::cat(&[odd.neg()?, even], 4)?.reshape((b, n, 2 * heads, d))?;
    let table = |t: &Tensor| t.reshape((1, n, 1, d));
    let qk = (qk.broadcast_mul(&table(cos)?)? + turned.broadcast_mul(&table(sin)?)?)?;
    Tensor::cat(&[qk, v], 2)?.reshape((b, n, width))
}
