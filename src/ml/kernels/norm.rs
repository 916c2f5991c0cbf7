//! LayerNorm or RMSNorm over the last axis followed by a scale and a shift. The affine norm of a
//! vision transformer and the adaptive modulation of a diffusion transformer are the same loop.
//!
//! y = x̂ (offset + scale) + shift with x̂ = (x - mean) / sqrt(var + eps). RMSNorm (arXiv 1910.07467)
//! is the same with a mean of 0. Scale and shift belong to a group of rows.

use super::simd::{simd, sum, sum3};
use super::{gradient_of, rows, slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// Mean and 1 / standard deviation.
#[inline(always)]
pub fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x, |v| v) / n;
    let var = sum(x, |v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (var + eps).sqrt())
}

/// [`moments`], or those of RMSNorm, which is not `centred`: a mean of 0 and 1 / root mean square.
#[inline(always)]
fn moments_about(x: &[f32], eps: f32, centred: bool) -> (f32, f32) {
    if centred {
        return moments(x, eps);
    }
    (0.0, 1.0 / (sum(x, |v| v * v) / x.len() as f32 + eps).sqrt())
}

simd! {
    pub fn forward(x: &[f32], shift: &[f32], scale: &[f32], offset: f32, eps: f32, centred: bool, y: &mut [f32]) {
        let (mean, rstd) = moments_about(x, eps, centred);
        for (((y, x), shift), scale) in y.iter_mut().zip(x).zip(shift).zip(scale) {
            *y = (x - mean) * rstd * (offset + scale) + shift;
        }
    }
}

/// The backward pass of one row: the values that its elements share.
pub struct Backward {
    mean: f32,
    rstd: f32,
    offset: f32,
    mean_g: f32,
    mean_gx: f32,
}

impl Backward {
    /// For a row x, the gradient of the output and the scale.
    #[inline(always)]
    pub fn new(x: &[f32], grad: &[f32], scale: &[f32], offset: f32, eps: f32) -> Self {
        Self::of(NormAffine { offset, eps, centred: true }, x, grad, scale)
    }

    #[inline(always)]
    fn of(norm: NormAffine, x: &[f32], grad: &[f32], scale: &[f32]) -> Self {
        let NormAffine { offset, eps, centred } = norm;
        let n = x.len() as f32;
        let (mean, rstd) = moments_about(x, eps, centred);
        let mean_g = if centred { sum3(grad, scale, x, |g, s, _| g * (offset + s)) / n } else { 0.0 };
        let mean_gx = sum3(grad, scale, x, |g, s, x| g * (offset + s) * ((x - mean) * rstd)) / n;
        Self { mean, rstd, offset, mean_g, mean_gx }
    }

    /// x̂ and the gradient of x for one element.
    #[inline(always)]
    pub fn at(&self, x: f32, grad: f32, scale: f32) -> (f32, f32) {
        let normal = (x - self.mean) * self.rstd;
        (normal, self.rstd * (grad * (self.offset + scale) - self.mean_g - normal * self.mean_gx))
    }
}

simd! {
    /// `sums` is `[shift gradient | scale gradient]`.
    fn backward(norm: NormAffine, x: &[f32], scale: &[f32], grad: &[f32], dx: &mut [f32], sums: &mut [f32]) {
        let row = Backward::of(norm, x, grad, scale);
        let (dshift, dscale) = sums.split_at_mut(x.len());
        for ((((d, x), g), s), (dshift, dscale)) in
            dx.iter_mut().zip(x).zip(grad).zip(scale).zip(dshift.iter_mut().zip(dscale))
        {
            let (normal, dx) = row.at(*x, *g, *s);
            *d = dx;
            *dshift += g;
            *dscale += g * normal;
        }
    }
}

/// Inputs x `[.., D]`, shift and scale `[G, D]` or `[D]`. Rows are split into G equal consecutive
/// groups.
#[derive(Debug, Clone, Copy)]
pub struct NormAffine {
    /// Added to the scale: 1 for adaLN modulation, 0 for weights.
    pub offset: f32,
    pub eps: f32,
    /// Whether the mean is subtracted: LayerNorm, not RMSNorm.
    pub centred: bool,
}

impl CustomOp3 for NormAffine {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let d = x_layout.dims().last().copied().unwrap_or(0);
        let (x, shift, scale) = (slice(x, x_layout)?, slice(shift, shift_layout)?, slice(scale, scale_layout)?);
        let per_group = rows_per_group(x.len(), shift.len(), scale.len(), d)?;
        let mut y = vec![0f32; x.len()];
        rows::each_row(&mut y, d, |row, y| {
            let group = row / per_group * d;
            forward(
                &x[row * d..][..d],
                &shift[group..][..d],
                &scale[group..][..d],
                self.offset,
                self.eps,
                self.centred,
                y,
            );
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        shift: &Tensor,
        scale: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = scale.dims().last().copied().unwrap_or(0);
        let per_group = rows_per_group(x.elem_count(), shift.elem_count(), scale.elem_count(), d)?;
        let grad = grad.contiguous()?;
        let (dx, sums) = with_slices([x, scale, &grad], |[xs, ss, gs]| {
            let mut dx = vec![0f32; xs.len()];
            let sums = rows::each_row_summing(&mut dx, d, per_group, 2 * d, |row, dx, sums| {
                let (at, group) = (row * d, row / per_group * d);
                backward(*self, &xs[at..][..d], &ss[group..][..d], &gs[at..][..d], dx, sums);
            });
            (dx, sums)
        })?;
        // [G, 2, D] to the two gradients.
        let half = |which: usize| sums.chunks(2 * d).flat_map(|s| s[which * d..][..d].to_vec()).collect::<Vec<_>>();
        Ok((
            gradient_of(x, || tensor(dx, x.shape()))?,
            gradient_of(shift, || tensor(half(0), shift.shape()))?,
            gradient_of(scale, || tensor(half(1), scale.shape()))?,
        ))
    }
}

fn rows_per_group(x: usize, shift: usize, scale: usize, d: usize) -> Result<usize> {
    if d == 0 || x == 0 || shift == 0 || shift != scale || !shift.is_multiple_of(d) || !x.is_multiple_of(shift) {
        bail!("a layer norm of {x} elements in rows of {d} got {shift} shifts and {scale} scales");
    }
    Ok(x / shift)
}
