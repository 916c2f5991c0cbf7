//! Two-dimensional convolution with kernel, stride and padding per axis, differentiable.
//!
//! candle's convolution has one stride and one padding for both axes, and reaches an eighth to a
//! half of the speed of a matrix product on the CPU. This one is a custom operation with a
//! hand-written backward pass for f32 on the CPU (`tiled`, and `winograd` for wide 3x3 kernels),
//! and uses plain candle operations ([`plain`]) elsewhere. Groups and dilation are not supported,
//! because no network here uses them.

mod finish;
mod geometry;
mod tiled;
mod winograd;

use super::{gradient_of, slice, suits, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Module, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};
use finish::Finish;
use geometry::Geometry;

pub use geometry::Padding;

/// Convolution of `x` `[n, ci, h, w]` with `weight` `[co, ci, kh, kw]` and an optional `bias`
/// `[co]`: `[n, co, (h + top + bottom - kh) / stride.0 + 1, (w + left + right - kw) / stride.1 +
/// 1]`.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: (usize, usize),
    padding: Padding,
) -> Result<Tensor> {
    if !suits(&[x, weight]) {
        return plain(x, weight, bias, stride, padding);
    }
    let op = Op { stride, padding, relu: false };
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        None => x.apply_op2(&weight, op),
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
    }
}

/// [`conv2d`] with a bias, followed by ReLU, in one pass over the result.
pub fn conv2d_relu(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: (usize, usize),
    padding: Padding,
) -> Result<Tensor> {
    if !suits(&[x, weight, bias]) {
        return plain(x, weight, Some(bias), stride, padding)?.relu();
    }
    let op = Op { stride, padding, relu: true };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

/// The same with plain candle operations: used on other devices, and as the reference in tests.
pub fn plain(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: (usize, usize),
    padding: Padding,
) -> Result<Tensor> {
    let g = Geometry::new(x.dims(), weight.dims(), stride, padding)?;
    let x = x.pad_with_zeros(2, padding.top, padding.bottom)?.pad_with_zeros(3, padding.left, padding.right)?;
    // candle's backward pass fails when strides leave different remainders on the two axes, so
    // pixels that no kernel covers are cut off.
    let covered = |count: usize, stride: usize, kernel: usize| (count - 1) * stride + kernel;
    let x = x.narrow(2, 0, covered(g.oh, stride.0, g.kh))?.narrow(3, 0, covered(g.ow, stride.1, g.kw))?.contiguous()?;
    let y = if stride.0 == stride.1 { x.conv2d(weight, 0, stride.0, 1, 1)? } else { sum_of_taps(&x, weight, &g)? };
    match bias {
        None => Ok(y),
        Some(b) => y.broadcast_add(&b.reshape((1, g.co, 1, 1))?),
    }
}

/// One product per kernel tap on the padded input: slow, but without candle's restriction to one
/// stride.
fn sum_of_taps(x: &Tensor, weight: &Tensor, g: &Geometry) -> Result<Tensor> {
    let every = |start: usize, step: usize, count: usize| {
        let index: Vec<u32> = (0..count).map(|k| (start + k * step) as u32).collect();
        Tensor::from_vec(index, count, x.device())
    };
    let mut sum: Option<Tensor> = None;
    for i in 0..g.kh {
        let rows = x.index_select(&every(i, g.stride.0, g.oh)?, 2)?;
        for j in 0..g.kw {
            let picked = rows.index_select(&every(j, g.stride.1, g.ow)?, 3)?.reshape((g.n, g.ci, g.out_plane()))?;
            let tap = weight.narrow(2, i, 1)?.narrow(3, j, 1)?.reshape((1, g.co, g.ci))?;
            let part = tap.broadcast_matmul(&picked)?;
            sum = Some(match sum {
                None => part,
                Some(s) => (s + part)?,
            });
        }
    }
    match sum {
        Some(s) => s.reshape(g.out_shape()),
        None => candle_core::bail!("a convolution with an empty kernel"),
    }
}

struct Op {
    stride: (usize, usize),
    padding: Padding,
    relu: bool,
}

impl Op {
    fn geometry(&self, x: &Shape, weight: &Shape) -> Result<Geometry> {
        Geometry::new(x.dims(), weight.dims(), self.stride, self.padding)
    }

    /// Computes the result with the faster algorithm for these sizes.
    fn forward(&self, g: &Geometry, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> CpuStorage {
        let finish = Finish { bias, relu: self.relu };
        CpuStorage::F32(match winograd::suits(g) {
            true => winograd::forward(g, x, weight, finish),
            false => tiled::forward(g, x, weight, finish),
        })
    }

    /// Gradients of input and weight; `None` for an input without gradient, such as the images of a
    /// batch.
    fn grads(&self, x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = self.geometry(x.shape(), weight.shape())?;
        let dx = gradient_of(x, || {
            tensor(with_slices([weight, dy], |[w, dy]| tiled::grad_input(&g, w, dy))?, x.shape().clone())
        })?;
        let dw = gradient_of(weight, || {
            tensor(with_slices([x, dy], |[x, dy]| tiled::grad_weight(&g, x, dy))?, weight.shape().clone())
        })?;
        Ok((dx, dw))
    }
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let g = self.geometry(lx.shape(), lw.shape())?;
        Ok((self.forward(&g, slice(x, lx)?, slice(w, lw)?, None), g.out_shape().into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.grads(x, w, &dy.contiguous()?)
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "conv2d-bias"
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
        let g = self.geometry(lx.shape(), lw.shape())?;
        if lb.dims() != [g.co] {
            candle_core::bail!("a convolution with {} output channels got a bias of shape {:?}", g.co, lb.dims());
        }
        Ok((self.forward(&g, slice(x, lx)?, slice(w, lw)?, Some(slice(b, lb)?)), g.out_shape().into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = if self.relu { (dy * y.gt(0f32)?.to_dtype(dy.dtype())?)? } else { dy.clone() }.contiguous()?;
        let (dx, dw) = self.grads(x, w, &dy)?;
        let g = self.geometry(x.shape(), w.shape())?;
        let db = gradient_of(b, || tensor(with_slices([&dy], |[dy]| tiled::grad_bias(&g, dy))?, g.co))?;
        Ok((dx, dw, db))
    }
}

/// A convolution layer with parameters `weight` and `bias`.
#[derive(Debug, Clone)]
pub struct Conv2d {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    pub stride: (usize, usize),
    pub padding: Padding,
}

impl Conv2d {
    /// A square kernel and a bias, initialised like PyTorch: both uniform within 1 / sqrt(fan in).
    pub fn new(
        channels_in: usize,
        channels_out: usize,
        kernel: usize,
        stride: usize,
        padding: Padding,
        vb: VarBuilder,
    ) -> Result<Self> {
        let bound = 1.0 / ((channels_in * kernel * kernel) as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((channels_out, channels_in, kernel, kernel), "weight", init)?;
        let bias = vb.get_with_hints(channels_out, "bias", init)?;
        Ok(Self { weight, bias: Some(bias), stride: (stride, stride), padding })
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        conv2d(x, &self.weight, self.bias.as_ref(), self.stride, self.padding)
    }
}
