//! Pooling over 3x3 windows, forward only: Inception needs it, and candle's pooling has no padding.
//!
//! Every window is clipped to the image: the maximum ignores what lies outside, and the average
//! divides by the number of pixels inside (`count_include_pad=False` in PyTorch, TensorFlow's only
//! average).

use super::simd::simd;
use super::{slice, suits};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// The kind of pooling. `Pool::side` gives the output size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Mean around every pixel.
    Average,
    /// Maximum around every pixel.
    Max,
    /// Maximum of every second window that lies entirely inside the image.
    MaxHalving,
}

impl Pool {
    /// Pixels per side of the output.
    fn side(self, n: usize) -> usize {
        match self {
            Self::MaxHalving => n.saturating_sub(1) / 2,
            Self::Average | Self::Max => n,
        }
    }
}

/// `[n, c, h, w]` to `[n, c, h', w']`. It has no backward pass.
pub fn pool3x3(x: &Tensor, pool: Pool) -> Result<Tensor> {
    if suits(&[x]) { x.contiguous()?.apply_op1_no_bwd(&Op(pool)) } else { plain(x, pool) }
}

/// The same with plain candle operations.
pub fn plain(x: &Tensor, pool: Pool) -> Result<Tensor> {
    match pool {
        Pool::MaxHalving => x.max_pool2d_with_stride(3, 2),
        // Repeating the border does not change a maximum.
        Pool::Max => x.pad_with_same(2, 1, 1)?.pad_with_same(3, 1, 1)?.max_pool2d_with_stride(3, 1),
        Pool::Average => {
            let sum = |t: &Tensor| t.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.avg_pool2d_with_stride(3, 1);
            let (_, _, h, w) = x.dims4()?;
            sum(x)?.broadcast_div(&sum(&Tensor::ones((1, 1, h, w), x.dtype(), x.device())?)?)
        }
    }
}

struct Op(Pool);

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "pool3x3"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let &[n, c, h, w] = layout.dims() else { bail!("pooling needs [n, c, h, w], got {:?}", layout.dims()) };
        let (oh, ow) = (self.0.side(h), self.0.side(w));
        if oh == 0 || ow == 0 {
            bail!("a 3x3 pool does not fit an image of {h}x{w}");
        }
        let x = slice(x, layout)?;
        let mut y = vec![0f32; n * c * oh * ow];
        let planes = y.par_chunks_mut(oh * ow).zip(x.par_chunks(h * w));
        planes.for_each_init(|| vec![0f32; w], |column, (y, x)| plane(self.0, x, w, y, ow, column));
        Ok((CpuStorage::F32(y), (n, c, oh, ow).into()))
    }
}

/// One channel: windows are reduced vertically into `column`, then horizontally.
fn plane(pool: Pool, x: &[f32], w: usize, y: &mut [f32], ow: usize, column: &mut [f32]) {
    let h = x.len() / w;
    for (i, out) in y.chunks_exact_mut(ow).enumerate() {
        let rows = match pool {
            Pool::MaxHalving => 2 * i..2 * i + 3,
            Pool::Average | Pool::Max => i.saturating_sub(1)..(i + 2).min(h),
        };
        let count = rows.len();
        let mut rows = x[rows.start * w..rows.end * w].chunks_exact(w);
        column.copy_from_slice(rows.next().unwrap_or_default());
        match pool {
            Pool::Average => {
                rows.for_each(|row| add(column, row));
                let mean = |window: &[f32]| window.iter().sum::<f32>() / (window.len() * count) as f32;
                clipped(out, column, mean);
            }
            Pool::Max => {
                rows.for_each(|row| raise(column, row));
                clipped(out, column, |window| window.iter().copied().fold(f32::NEG_INFINITY, larger));
            }
            Pool::MaxHalving => {
                rows.for_each(|row| raise(column, row));
                for (o, window) in out.iter_mut().zip(column.windows(3).step_by(2)) {
                    *o = larger(larger(window[0], window[1]), window[2]);
                }
            }
        }
    }
}

/// `f` of the window around every position, clipped at both ends.
fn clipped(out: &mut [f32], line: &[f32], f: impl Fn(&[f32]) -> f32) {
    for (j, o) in out.iter_mut().enumerate() {
        *o = f(&line[j.saturating_sub(1)..(j + 2).min(line.len())]);
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

simd! {
    fn add(sum: &mut [f32], row: &[f32]) {
        sum.iter_mut().zip(row).for_each(|(s, r)| *s += *r);
    }
}

simd! {
    fn raise(top: &mut [f32], row: &[f32]) {
        top.iter_mut().zip(row).for_each(|(t, r)| *t = larger(*t, *r));
    }
}
