//! Linear layers with an activation between them as one operation: the projectors of representation
//! alignment.
//!
//! The rows before each activation are saved for the backward pass; the activations are recomputed.

use super::activation::silu_and_slope;
use super::autograd::collect_bias;
use super::linear::{self, Affine, collect_weight};
use super::rows::{self, each_row, each_row_summing, each_row2};
use super::scratch::{self, Scratch};
use super::simd::simd;
use super::{gradient_of, slice, suits, tensor, with_all, with_slices};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use std::sync::{Mutex, PoisonError};

simd! {
    fn silu(x: &[f32], bias: &[f32], y: &mut [f32]) {
        for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
            *y = silu_and_slope(x + b).0;
        }
    }
}

simd! {
    /// SiLU of x + bias; x is replaced by the derivative.
    fn silu_backward(x: &mut [f32], bias: &[f32], y: &mut [f32]) {
        for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
            (*y, *x) = silu_and_slope(*x + b);
        }
    }
}

simd! {
    /// Multiplies d by `slope` in place, and adds the results to `sums`.
    pub fn times_slope(d: &mut [f32], slope: &[f32], sums: &mut [f32]) {
        for ((d, slope), sum) in d.iter_mut().zip(slope).zip(sums) {
            *d *= slope;
            *sum += *d;
        }
    }
}

/// Input `[.., in]` of the first layer, output `[.., out]` of the last, with SiLU between layers.
pub struct Mlp {
    layers: Vec<Affine>,
    /// Output of every layer but the last, without its bias.
    saved: Mutex<Option<Vec<Scratch>>>,
}

impl Mlp {
    pub fn new(layers: Vec<Affine>) -> Self {
        Self { layers, saved: Mutex::default() }
    }

    /// Whether these weights and this input are supported: all f32, in main memory, contiguous.
    pub fn suits(&self, x: &Tensor) -> bool {
        let all = self.all();
        suits(&[x]) && suits(&all) && all.iter().all(|t| t.is_contiguous()) && !self.layers.is_empty()
    }

    fn all(&self) -> Vec<&Tensor> {
        self.layers.iter().flat_map(|l| [&l.weight, &l.bias]).collect()
    }

    /// Input width, hidden widths and output width.
    fn widths(&self, given: &[usize]) -> Result<Vec<usize>> {
        let mut widths = vec![given.last().copied().unwrap_or(0)];
        for layer in &self.layers {
            let (n_out, n_in) = layer.weight.dims2()?;
            if widths.last() != Some(&n_in) || n_in == 0 || layer.bias.dims() != [n_out] {
                bail!("the layers of an MLP do not match an input {given:?}");
            }
            widths.push(n_out);
        }
        Ok(widths)
    }

    fn run(&self, x: &[f32], widths: &[usize], numbers: &[&[f32]]) -> (Vec<Scratch>, Vec<f32>) {
        let rows = x.len() / widths[0];
        let last = self.layers.len() - 1;
        let (mut saved, mut active) = (vec![], None::<Scratch>);
        for i in 0..last {
            let (n_in, n_out) = (widths[i], widths[i + 1]);
            let (weight, bias) = (numbers[2 * i], numbers[2 * i + 1]);
            let mut before = scratch::take(rows * n_out);
            linear::forward(active.as_deref().unwrap_or(x), weight, None, n_in, &mut before);
            let mut after = scratch::take(rows * n_out);
            each_row(&mut after, n_out, |row, y| silu(&before[row * n_out..][..n_out], bias, y));
            saved.push(before);
            active = Some(after);
        }
        let mut y = vec![0f32; rows * widths[last + 1]];
        let (weight, bias) = (numbers[2 * last], numbers[2 * last + 1]);
        linear::forward(active.as_deref().unwrap_or(x), weight, Some(bias), widths[last], &mut y);
        (saved, y)
    }
}

impl CustomOp1 for Mlp {
    fn name(&self) -> &'static str {
        "mlp"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let widths = self.widths(layout.dims())?;
        let x = slice(x, layout)?;
        let (saved, y) = with_all(&self.all(), |numbers| Ok(self.run(x, &widths, numbers)))?;
        if self.all().iter().any(|t| t.is_variable()) {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        }
        let mut dims = layout.dims().to_vec();
        if let (Some(last), Some(width)) = (dims.last_mut(), widths.last()) {
            *last = *width;
        }
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let widths = self.widths(x.dims())?;
        let grad = grad.contiguous()?;
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        with_slices([x, &grad], |[xs, g]| {
            with_all(&self.all(), |numbers| {
                let mut saved = saved.unwrap_or_else(|| self.run(xs, &widths, numbers).0);
                let mut d = None::<Scratch>;
                for i in (0..self.layers.len()).rev() {
                    let (layer, n_in, n_out) = (&self.layers[i], widths[i], widths[i + 1]);
                    let dy = d.as_deref().unwrap_or(g);
                    if d.is_none() {
                        collect_bias(&layer.bias, &rows::column_sums(dy, n_out), n_out, 0)?;
                    }
                    let Some(mut slope) = saved.pop() else {
                        collect_weight(&layer.weight, xs, dy, n_in)?;
                        return gradient_of(x, || {
                            let mut dx = vec![0f32; xs.len()];
                            linear::backward_input(dy, numbers[2 * i], n_in, &mut dx);
                            tensor(dx, x.shape())
                        });
                    };
                    let mut active = scratch::take(slope.len());
                    each_row2(&mut slope, &mut active, n_in, |_, x, y| silu_backward(x, numbers[2 * i - 1], y));
                    collect_weight(&layer.weight, &active, dy, n_in)?;
                    linear::backward_input(dy, numbers[2 * i], n_in, &mut active);
                    let rows = active.len() / n_in;
                    let sums = each_row_summing(&mut active, n_in, rows, n_in, |row, d, sums| {
                        times_slope(d, &slope[row * n_in..][..n_in], sums);
                    });
                    collect_bias(&self.layers[i - 1].bias, &sums, n_in, 0)?;
                    d = Some(active);
                }
                Ok(None)
            })
        })?
    }
}
