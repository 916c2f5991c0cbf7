//! y = x W^T + b with the bias added inside the product, and gradients without transposed copies.

use super::matmul::{Mat, Threads, matmul};
use super::{gradient_of, rows, slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::borrow::Cow;

/// Rows that the product is given at least, the rest being zeros. For few rows, gemm sums in another order (a dot product
/// for results of up to 256 numbers, matrix times vector for one row, other blocks below 65 rows and columns), and the
/// bits of a sample would depend on how many others are in its batch.
fn rows_given(count: usize, n_out: usize) -> usize {
    count.max(65).max(256 / n_out.max(1) + 1)
}

/// `x` with rows of zeros behind it.
fn padded(x: &[f32], len: usize) -> Cow<'_, [f32]> {
    if x.len() == len {
        return Cow::Borrowed(x);
    }
    let mut all = Vec::with_capacity(len);
    all.extend_from_slice(x);
    all.resize(len, 0.0);
    Cow::Owned(all)
}

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
            _ => bail!("linear layer of {n_in} inputs given a tensor {:?}", x_layout.dims()),
        }
        let (x, weight, bias) = (slice(x, x_layout)?, slice(weight, weight_layout)?, slice(bias, bias_layout)?);
        if bias.len() != n_out {
            bail!("linear layer of {n_out} outputs given {} biases", bias.len());
        }
        let count = x.len() / n_in;
        let given = if count == 0 { 0 } else { rows_given(count, n_out) };
        let x = padded(x, given * n_in);
        let mut y = vec![0f32; given * n_out];
        y.par_chunks_mut(n_out).with_min_len(64).for_each(|row| row.copy_from_slice(bias));
        matmul(&mut y, true, 1.0, Mat::new(&x, given, n_in), Mat::new(weight, n_out, n_in).t(), Threads::Pool);
        y.truncate(count * n_out);
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
        let count = x.elem_count() / n_in;
        let grad = grad.contiguous()?;
        with_slices([x, weight, &grad], |[xs, ws, gs]| {
            let g = Mat::new(gs, count, n_out);
            let product = |shape: &Tensor, a: Mat, b: Mat| {
                let mut out = vec![0f32; shape.elem_count()];
                matmul(&mut out, false, 1.0, a, b, Threads::Pool);
                tensor(out, shape.shape())
            };
            Ok((
                gradient_of(x, || product(x, g, Mat::new(ws, n_out, n_in)))?,
                gradient_of(weight, || product(weight, g.t(), Mat::new(xs, count, n_in)))?,
                gradient_of(bias, || tensor(rows::column_sums(gs, n_out), bias.shape()))?,
            ))
        })?
    }
}
