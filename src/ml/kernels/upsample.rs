//! Nearest-neighbour upsampling by two, differentiable: every pixel becomes a 2x2 square.

use super::{slice, suits, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `[n, c, h, w]` to `[n, c, 2h, 2w]`.
pub fn upsample2x(x: &Tensor) -> Result<Tensor> {
    if suits(&[x]) { x.contiguous()?.apply_op1(Op) } else { plain(x) }
}

/// The same with plain candle operations.
pub fn plain(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    x.reshape((n * c, h, 1, w, 1))?.broadcast_as((n * c, h, 2, w, 2))?.reshape((n, c, 2 * h, 2 * w))
}

struct Op;

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "upsample2x"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let &[n, c, h, w] = layout.dims() else { bail!("upsampling needs [n, c, h, w], got {:?}", layout.dims()) };
        let x = slice(x, layout)?;
        let mut y = vec![0f32; x.len() * 4];
        if !y.is_empty() {
            y.par_chunks_mut(4 * h * w).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
                for (rows, x) in y.chunks_exact_mut(4 * w).zip(x.chunks_exact(w)) {
                    let (upper, lower) = rows.split_at_mut(2 * w);
                    upper.chunks_exact_mut(2).zip(x).for_each(|(pair, v)| pair.fill(*v));
                    lower.copy_from_slice(upper);
                }
            });
        }
        Ok((CpuStorage::F32(y), (n, c, 2 * h, 2 * w).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, h, w) = x.dims4()?;
        let dy = dy.contiguous()?;
        let dx = with_slices([&dy], |[dy]| sum_squares(dy, h, w))?;
        tensor(dx, x.shape().clone()).map(Some)
    }
}

/// Sums of the 2x2 squares of planes `[2h, 2w]`.
fn sum_squares(dy: &[f32], h: usize, w: usize) -> Vec<f32> {
    let mut dx = vec![0f32; dy.len() / 4];
    if dx.is_empty() {
        return dx;
    }
    dx.par_chunks_mut(h * w).zip(dy.par_chunks(4 * h * w)).for_each(|(dx, dy)| {
        for (dx, rows) in dx.chunks_exact_mut(w).zip(dy.chunks_exact(4 * w)) {
            let (upper, lower) = rows.split_at(2 * w);
            for ((d, a), b) in dx.iter_mut().zip(upper.chunks_exact(2)).zip(lower.chunks_exact(2)) {
                *d = (a[0] + a[1]) + (b[0] + b[1]);
            }
        }
    });
    dx
}
