//! Group normalisation (Wu and He, 2018), optionally followed by SiLU, differentiable.
//!
//! In candle this takes a dozen passes over memory. Here it is one operation for f32 on the CPU,
//! with a hand-written backward pass that recomputes the statistics instead of saving them, and
//! plain candle operations elsewhere.

use super::simd::{self, simd};
use super::{gradient_of, slice, suits, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Module, Result, Shape, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

/// The activation after the normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    None,
    Silu,
}

/// Normalises `x` `[n, c, ..]` over each of `groups` groups of channels, scales and shifts by
/// `weight` and `bias` `[c]`, then applies the activation.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f32,
    activation: Activation,
) -> Result<Tensor> {
    let op = Op { groups, eps, activation };
    op.sizes(x.dims(), weight.dims(), bias.dims())?;
    if suits(&[x, weight, bias]) {
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op);
    }
    plain(x, weight, bias, groups, eps, activation)
}

/// The same with plain candle operations.
pub fn plain(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f32,
    activation: Activation,
) -> Result<Tensor> {
    let n = x.dim(0)?;
    let flat = x.reshape((n, groups, ()))?;
    let centred = flat.broadcast_sub(&flat.mean_keepdim(D::Minus1)?)?;
    let var = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let unit = centred.broadcast_div(&(var + f64::from(eps))?.sqrt()?)?.reshape(x.shape())?;
    let mut channel = vec![1; x.rank()];
    channel[1] = x.dim(1)?;
    let y = unit.broadcast_mul(&weight.reshape(&*channel)?)?.broadcast_add(&bias.reshape(&*channel)?)?;
    match activation {
        Activation::None => Ok(y),
        Activation::Silu => y.silu(),
    }
}

struct Op {
    groups: usize,
    eps: f32,
    activation: Activation,
}

/// Channels per group and pixels per channel.
#[derive(Clone, Copy)]
struct Sizes {
    channels: usize,
    pixels: usize,
}

impl Sizes {
    fn group(&self) -> usize {
        self.channels * self.pixels
    }
}

impl Op {
    fn sizes(&self, x: &[usize], weight: &[usize], bias: &[usize]) -> Result<Sizes> {
        let &[_, c, ref rest @ ..] = x else { bail!("group normalisation needs [n, c, ..], got {x:?}") };
        if self.groups == 0 || !c.is_multiple_of(self.groups) {
            bail!("{c} channels do not divide into {} groups", self.groups);
        }
        if weight != [c] || bias != [c] {
            bail!("group normalisation of {c} channels got parameters of shape {weight:?} and {bias:?}");
        }
        Ok(Sizes { channels: c / self.groups, pixels: rest.iter().product() })
    }

    fn forward(&self, s: Sizes, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let mut y = vec![0f32; x.len()];
        if y.is_empty() {
            return y;
        }
        y.par_chunks_mut(s.group()).zip(x.par_chunks(s.group())).enumerate().for_each(|(k, (y, x))| {
            let first = k % self.groups * s.channels;
            let (mean, rstd) = moments(x, self.eps);
            for (c, (y, x)) in y.chunks_mut(s.pixels).zip(x.chunks(s.pixels)).enumerate() {
                let scale = weight[first + c] * rstd;
                let shift = bias[first + c] - mean * scale;
                match self.activation {
                    Activation::None => scale_shift(y, x, scale, shift),
                    Activation::Silu => scale_shift_silu(y, x, scale, shift),
                }
            }
        });
        y
    }

    /// Gradients of input, weight and bias.
    fn backward(&self, s: Sizes, x: &[f32], weight: &[f32], bias: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let c = weight.len();
        let mut dx = vec![0f32; x.len()];
        if dx.is_empty() {
            return [dx, vec![0.0; c], vec![0.0; c]];
        }
        let (len, per) = (s.group(), s.channels);
        // Per image and channel, then summed over images in order.
        let mut sums = vec![[0f64; 2]; x.len() / s.pixels];
        dx.par_chunks_mut(len).zip(sums.par_chunks_mut(per)).enumerate().for_each(|(k, (dx, sums))| {
            let first = k % self.groups * per;
            let (x, dy) = (&x[k * len..][..len], &dy[k * len..][..len]);
            self.backward_group(s, x, &weight[first..][..per], &bias[first..][..per], dy, dx, sums);
        });
        let total = |which: usize| -> Vec<f32> {
            (0..c).map(|i| sums.iter().skip(i).step_by(c).map(|s| s[which]).sum::<f64>() as f32).collect()
        };
        let (dw, db) = (total(0), total(1));
        [dx, dw, db]
    }

    #[allow(clippy::too_many_arguments)]
    fn backward_group(
        &self,
        s: Sizes,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        sums: &mut [[f64; 2]],
    ) {
        let (mean, rstd) = moments(x, self.eps);
        // With u = (x - mean) rstd and e = dy through the activation: the gradient of the bias is
        // sum e, that of the weight sum e u.
        let (mut sum_g, mut sum_gu) = (0f64, 0f64);
        for (c, sums) in sums.iter_mut().enumerate() {
            let run = c * s.pixels..(c + 1) * s.pixels;
            let (x, dy, e) = (&x[run.clone()], &dy[run.clone()], &mut dx[run]);
            match self.activation {
                Activation::None => e.copy_from_slice(dy),
                Activation::Silu => {
                    let scale = weight[c] * rstd;
                    silu_backward(e, x, dy, scale, bias[c] - mean * scale);
                }
            }
            let db = blocks(e, x, |e, _| plain_sum(e));
            let dw = blocks(e, x, |e, x| centred_dot(e, x, mean)) * f64::from(rstd);
            *sums = [dw, db];
            sum_g += db * f64::from(weight[c]);
            sum_gu += dw * f64::from(weight[c]);
        }
        let n = s.group() as f64;
        let (mean_g, mean_gu) = ((sum_g / n) as f32, (sum_gu / n) as f32);
        for ((dx, x), w) in dx.chunks_mut(s.pixels).zip(x.chunks(s.pixels)).zip(weight) {
            // rstd (e w - mean_g - u mean_gu), as a linear combination of e, x and 1
            let slope = -rstd * rstd * mean_gu;
            combine(dx, x, rstd * w, slope, -rstd * mean_g - slope * mean);
        }
    }
}

/// Sums over short blocks in f32, and over blocks in f64, in a fixed order.
fn blocks(a: &[f32], b: &[f32], sum: impl Fn(&[f32], &[f32]) -> f32) -> f64 {
    a.chunks(1024).zip(b.chunks(1024)).map(|(a, b)| f64::from(sum(a, b))).sum()
}

/// Mean and 1 / sqrt(variance + eps).
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = (blocks(x, x, |x, _| plain_sum(x)) / n) as f32;
    let var = blocks(x, x, |x, _| square_sum(x, mean)) / n;
    (mean, (1.0 / (var + f64::from(eps)).sqrt()) as f32)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + simd::exp(-x))
}

simd! {
    fn plain_sum(x: &[f32]) -> f32 {
        simd::sum(x, |v| v)
    }
}

simd! {
    fn square_sum(x: &[f32], mean: f32) -> f32 {
        simd::sum(x, |v| (v - mean) * (v - mean))
    }
}

simd! {
    /// sum of e (x - mean)
    fn centred_dot(e: &[f32], x: &[f32], mean: f32) -> f32 {
        simd::sum3(e, x, x, |e, x, _| e * (x - mean))
    }
}

simd! {
    fn scale_shift(y: &mut [f32], x: &[f32], scale: f32, shift: f32) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x * scale + shift);
    }
}

simd! {
    fn scale_shift_silu(y: &mut [f32], x: &[f32], scale: f32, shift: f32) {
        y.iter_mut().zip(x).for_each(|(y, x)| {
            let v = x * scale + shift;
            *y = v * sigmoid(v);
        });
    }
}

simd! {
    /// dy times the derivative of SiLU at x scale + shift
    fn silu_backward(e: &mut [f32], x: &[f32], dy: &[f32], scale: f32, shift: f32) {
        e.iter_mut().zip(x).zip(dy).for_each(|((e, x), dy)| {
            let v = x * scale + shift;
            let p = sigmoid(v);
            *e = dy * (p + v * p * (1.0 - p));
        });
    }
}

simd! {
    /// d = a d + b x + c
    fn combine(d: &mut [f32], x: &[f32], a: f32, b: f32, c: f32) {
        d.iter_mut().zip(x).for_each(|(d, x)| *d = a * *d + b * x + c);
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(lx.dims(), lw.dims(), lb.dims())?;
        let y = self.forward(sizes, slice(x, lx)?, slice(w, lw)?, slice(b, lb)?);
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = self.sizes(x.dims(), w.dims(), b.dims())?;
        let dy = dy.contiguous()?;
        let [dx, dw, db] = with_slices([x, w, b, &dy], |[xs, ws, bs, dys]| self.backward(sizes, xs, ws, bs, dys))?;
        let grad = |v: Vec<f32>, of: &Tensor| gradient_of(of, || tensor(v, of.shape().clone()));
        Ok((grad(dx, x)?, grad(dw, w)?, grad(db, b)?))
    }
}

/// A layer with parameters `weight` (initially ones) and `bias` (zeros).
#[derive(Debug, Clone)]
pub struct GroupNorm {
    pub weight: Tensor,
    pub bias: Tensor,
    pub groups: usize,
    pub eps: f32,
    pub activation: Activation,
}

impl GroupNorm {
    pub fn new(groups: usize, channels: usize, eps: f32, activation: Activation, vb: VarBuilder) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            bail!("{}: {channels} channels do not divide into {groups} groups", vb.prefix());
        }
        let weight = vb.get_with_hints(channels, "weight", Init::Const(1.0))?;
        let bias = vb.get_with_hints(channels, "bias", Init::Const(0.0))?;
        Ok(Self { weight, bias, groups, eps, activation })
    }
}

impl Module for GroupNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        group_norm(x, &self.weight, &self.bias, self.groups, self.eps, self.activation)
    }
}
