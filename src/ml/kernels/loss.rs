//! The two losses of a training step, each with one pass forward and one backward. Sums run over
//! fixed groups of rows, in f64 across groups, so that they do not depend on the number of threads.

use super::simd::{dot, simd, sum3};
use super::{gradient_of, slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

const CHUNK: usize = 16 * 1024;
/// Rows per task.
const ROWS: usize = 64;

simd! {
    fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
        sum3(a, b, b, |a, b, _| (a - b) * (a - b))
    }
}

simd! {
    fn difference(a: &[f32], b: &[f32], scale: f32, d: &mut [f32]) {
        for ((d, a), b) in d.iter_mut().zip(a).zip(b) {
            *d = scale * (a - b);
        }
    }
}

simd! {
    fn cosine(a: &[f32], b: &[f32], tiny: f32) -> f32 {
        dot(a, b) / ((dot(a, a) + tiny).sqrt() * (dot(b, b) + tiny).sqrt())
    }
}

simd! {
    /// Gradient of the cosine with respect to a, times `scale`.
    fn cosine_backward(a: &[f32], b: &[f32], scale: f32, tiny: f32, d: &mut [f32]) {
        let (aa, bb) = (dot(a, a) + tiny, dot(b, b) + tiny);
        let by_b = scale / (aa.sqrt() * bb.sqrt());
        let by_a = by_b * dot(a, b) / aa;
        for ((d, a), b) in d.iter_mut().zip(a).zip(b) {
            *d = by_b * b - by_a * a;
        }
    }
}

/// Mean squared difference of two tensors of one shape, a scalar.
pub struct MeanSquaredError;

/// Mean over all rows of the cosine similarity of two tensors of one shape, `[.., D]`, a scalar.
pub struct MeanCosine {
    /// Acts like a lower bound on the length of a row, with a finite gradient at zero.
    pub least: f64,
}

impl MeanCosine {
    /// Added to squared lengths.
    fn tiny(&self) -> f32 {
        (self.least * self.least) as f32
    }
}

fn scalar(value: f64) -> (CpuStorage, Shape) {
    (CpuStorage::F32(vec![value as f32]), ().into())
}

fn same_shape(a: &[usize], b: &[usize]) -> Result<()> {
    if a != b || a.iter().product::<usize>() == 0 {
        bail!("a loss needs tensors of one shape, got {a:?} and {b:?}");
    }
    Ok(())
}

impl CustomOp2 for MeanSquaredError {
    fn name(&self) -> &'static str {
        "mean-squared-error"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        same_shape(la.dims(), lb.dims())?;
        let (a, b) = (slice(a, la)?, slice(b, lb)?);
        let parts: Vec<f32> =
            a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).map(|(a, b)| squared_distance(a, b)).collect();
        Ok(scalar(parts.into_iter().map(f64::from).sum::<f64>() / a.len() as f64))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = 2.0 * grad.to_scalar::<f32>()? / a.elem_count() as f32;
        let by = |a: &Tensor, b: &Tensor| {
            let mut d = vec![0f32; a.elem_count()];
            with_slices([a, b], |[a, b]| {
                d.par_chunks_mut(CHUNK)
                    .zip(a.par_chunks(CHUNK))
                    .zip(b.par_chunks(CHUNK))
                    .for_each(|((d, a), b)| difference(a, b, scale, d));
            })?;
            tensor(d, a.shape())
        };
        Ok((gradient_of(a, || by(a, b))?, gradient_of(b, || by(b, a))?))
    }
}

impl CustomOp2 for MeanCosine {
    fn name(&self) -> &'static str {
        "mean-cosine"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        same_shape(la.dims(), lb.dims())?;
        let (a, b) = (slice(a, la)?, slice(b, lb)?);
        let width = la.dims().last().copied().unwrap_or(1);
        let share = ROWS * width;
        let sums = a.par_chunks(share).zip(b.par_chunks(share)).map(|(a, b)| {
            let rows = a.chunks(width).zip(b.chunks(width));
            rows.map(|(a, b)| f64::from(cosine(a, b, self.tiny()))).sum::<f64>()
        });
        let sums: Vec<f64> = sums.collect();
        Ok(scalar(sums.into_iter().sum::<f64>() / (a.len() / width) as f64))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = a.dims().last().copied().unwrap_or(1);
        let scale = grad.to_scalar::<f32>()? / (a.elem_count() / width) as f32;
        let by = |a: &Tensor, b: &Tensor| {
            let mut d = vec![0f32; a.elem_count()];
            with_slices([a, b], |[a, b]| {
                super::rows::each_row(&mut d, width, |row, d| {
                    cosine_backward(&a[row * width..][..width], &b[row * width..][..width], scale, self.tiny(), d);
                });
            })?;
            tensor(d, a.shape())
        };
        Ok((gradient_of(a, || by(a, b))?, gradient_of(b, || by(b, a))?))
    }
}
