//! y = x W^T + b with the bias added inside the product. Its gradients need no transposed copies,
//! and that of the weight goes directly to the buffer of its parameter.

use super::autograd::{self, collect_captured};
use super::matmul::{Mat, Threads, matmul};
use super::scratch::{self, Scratch};
use super::{gradient_of, rows, slice, small_batch, tensor, with_slices};
use crate::kernels;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Minimum number of rows given to the product, padded with zeros. For few rows gemm sums in
/// another order (a dot product for results of up to 256 values, matrix times vector for one row,
/// other blocks below 65 rows and columns), and the bits of a sample would depend on the size of
/// its batch.
fn rows_given(count: usize, n_out: usize) -> usize {
    count.max(65).max(256 / n_out.max(1) + 1)
}

/// y = x W^T + b for x `[rows, in]`, W `[out, in]`, b `[out]`; without `bias`, x W^T alone.
pub fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, n_in: usize, y: &mut [f32]) {
    let n_out = weight.len() / n_in.max(1);
    let rows = x.len() / n_in.max(1);
    let given = rows_given(rows, n_out);
    if rows == 0 || given == rows {
        return product(x, weight, bias, [rows, n_in, n_out], y);
    }
    let (mut more_x, mut more_y) = (x.to_vec(), vec![0f32; given * n_out]);
    more_x.resize(given * n_in, 0.0);
    product(&more_x, weight, bias, [given, n_in, n_out], &mut more_y);
    y.copy_from_slice(&more_y[..y.len()]);
}

fn product(x: &[f32], weight: &[f32], bias: Option<&[f32]>, [rows, n_in, n_out]: [usize; 3], y: &mut [f32]) {
    if let Some(bias) = bias {
        rows::each_row(y, n_out, |_, row| row.copy_from_slice(bias));
    }
    let x = Mat::new(x, rows, n_in);
    if n_in.is_multiple_of(CONFLICT) {
        let turned = transposed(weight, n_in);
        matmul(y, bias.is_some(), 1.0, x, Mat::new(&turned, n_in, n_out), Threads::Pool);
    } else {
        matmul(y, bias.is_some(), 1.0, x, Mat::new(weight, n_out, n_in).t(), Threads::Pool);
    }
}

/// Row lengths that are a multiple of this make rows a multiple of 4 KiB apart. The 64 rows that
/// gemm gathers then map to one set of the L1 cache and evict each other (measured with AVX-512:
/// 1024 x 3072 by 3072 x 768 at 0.71 of the speed of other shapes, at 0.95 with a transposed copy).
const CONFLICT: usize = 1024;

/// W^T `[in, out]` of W `[out, in]`.
fn transposed(weight: &[f32], n_in: usize) -> Scratch {
    /// Rows that are read side by side: fewer than the cache has ways.
    const SIDE: usize = 8;
    const COLUMNS: usize = 64;
    let n_out = weight.len() / n_in;
    let mut turned = scratch::take(weight.len());
    turned.par_chunks_mut(COLUMNS * n_out).enumerate().for_each(|(block, turned)| {
        let first = block * COLUMNS;
        for out in (0..n_out).step_by(SIDE) {
            for (j, row) in turned.chunks_mut(n_out).enumerate() {
                for (i, to) in row[out..].iter_mut().take(SIDE).enumerate() {
                    *to = weight[(out + i) * n_in + first + j];
                }
            }
        }
    });
    turned
}

/// Gradient of x `[rows, in]` from that of y `[rows, out]`.
pub fn backward_input(grad: &[f32], weight: &[f32], n_in: usize, dx: &mut [f32]) {
    let n_out = weight.len() / n_in.max(1);
    let rows = grad.len() / n_out.max(1);
    matmul(dx, false, 1.0, Mat::new(grad, rows, n_out), Mat::new(weight, n_out, n_in), Threads::Pool);
}

/// Gradient of W, added to the existing values if `keep`.
pub fn backward_weight(x: &[f32], grad: &[f32], n_in: usize, dw: &mut [f32], keep: bool) {
    let n_out = dw.len() / n_in.max(1);
    let count = x.len() / n_in.max(1);
    let (grad, x) = (Mat::new(grad, count, n_out), Mat::new(x, count, n_in));
    let pieces = rayon::current_num_threads().min(n_out / SAME_ORDER);
    if n_in >= WIDE || pieces < 2 {
        return matmul(dw, keep, 1.0, grad.t(), x, Threads::Pool);
    }
    let (mut shares, mut rest) = (vec![], dw);
    for i in 0..pieces {
        let (first, end) = (n_out * i / pieces, n_out * (i + 1) / pieces);
        let (share, more) = rest.split_at_mut((end - first) * n_in);
        shares.push((grad.columns(first, end - first), share));
        rest = more;
    }
    shares.into_par_iter().for_each(|(grad, dw)| matmul(dw, keep, 1.0, grad.t(), x, Threads::One));
}

/// Narrower weight gradients are split across threads here instead of in gemm (measured on two
/// cores with AVX2, 2048 x 384 by 2048 x 1152: 243 GFLOP/s instead of 222; at width 768 there is no
/// difference).
const WIDE: usize = 512;
/// From this number of rows on, gemm sums in the same order as with all rows.
const SAME_ORDER: usize = 65;

/// Inputs x `[.., in]`, weight `[out, in]`, bias `[out]`.
pub struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n_out, n_in) = weight_layout.shape().dims2()?;
        let mut dims = x_layout.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == n_in => *last = n_out,
            _ => bail!("a linear layer of {n_in} inputs got a tensor {:?}", x_layout.dims()),
        }
        let (x, weight, bias) = (slice(x, x_layout)?, slice(weight, weight_layout)?, slice(bias, bias_layout)?);
        if bias.len() != n_out {
            bail!("a linear layer of {n_out} outputs got {} biases", bias.len());
        }
        let mut y = vec![0f32; x.len() / n_in * n_out];
        // One row per sample, or one per token. The rule does not depend on the size of the batch.
        if x_layout.dims().len() == 2 {
            small_batch::forward(x, weight, bias, n_in, &mut y);
        } else {
            forward(x, weight, Some(bias), n_in, &mut y);
        }
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n_out, n_in) = weight.dims2()?;
        let grad = grad.contiguous()?;
        with_slices([x, weight, &grad], |[xs, ws, gs]| {
            // Directly into the buffer of the parameter, if there is one.
            let collected = autograd::collect(weight, |dw, keep| backward_weight(xs, gs, n_in, dw, keep));
            let dw = || {
                let mut dw = vec![0f32; n_out * n_in];
                backward_weight(xs, gs, n_in, &mut dw, false);
                tensor(dw, weight.shape())
            };
            let dx = || {
                let mut dx = vec![0f32; xs.len()];
                backward_input(gs, ws, n_in, &mut dx);
                tensor(dx, x.shape())
            };
            Ok((
                gradient_of(x, dx)?,
                if collected { None } else { gradient_of(weight, dw)? },
                gradient_of(bias, || tensor(rows::column_sums(gs, n_out), bias.shape()))?,
            ))
        })?
    }
}

/// For the backward pass of a fused linear layer: collects the gradient of its weight `[out, in]`
/// from x `[rows, in]` and the gradient of y.
pub(crate) fn collect_weight(weight: &Tensor, x: &[f32], grad: &[f32], n_in: usize) -> Result<()> {
    collect_captured(weight, |dw, keep| kernels::linear::backward_weight(x, grad, n_in, dw, keep))
}

/// Weight `[out, in]` and bias `[out]` of a linear layer.
#[derive(Debug, Clone)]
pub struct Affine {
    pub weight: Tensor,
    pub bias: Tensor,
}
