//! Rotary embedding of queries and keys in a packed qkv tensor; the values are unchanged.
//!
//! Neighbouring channels (2i, 2i + 1) form a plane that is rotated by an angle that depends on the
//! token's position. The backward pass rotates the gradient back.

use super::simd::simd;
use super::{rows, slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// Rotates the queries and keys of one token's qkv in place, forward with `direction` 1, back with
/// -1. The tables are those of its position.
#[inline(always)]
pub fn turn_row(row: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    let d = cos.len();
    let turned = row.len() / 3 * 2;
    for head in row[..turned].chunks_exact_mut(d) {
        for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos.chunks_exact(2)).zip(sin.chunks_exact(2)) {
            let (a, b, c, s) = (pair[0], pair[1], c[0], direction * s[0]);
            pair[0] = a * c - b * s;
            pair[1] = b * c + a * s;
        }
    }
}

simd! {
    fn turn(row: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
        turn_row(row, cos, sin, direction);
    }
}

/// Rotates qkv `[B, N, 3 H D]` by tables `[N, D]` whose neighbouring pairs are equal.
pub struct Rope {
    pub heads: usize,
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rope {
    /// `direction` 1 rotates forward, -1 back.
    fn turn(&self, x: &[f32], dims: (usize, usize, usize), direction: f32) -> Result<Vec<f32>> {
        let (_, n, width) = dims;
        let d = width / 3 / self.heads;
        if self.cos.dims() != [n, d] || self.sin.dims() != [n, d] {
            bail!("rotary tables {:?} do not match {n} tokens with head dimension {d}", self.cos.dims());
        }
        with_slices([&self.cos, &self.sin], |[cos, sin]| {
            let mut out = vec![0f32; x.len()];
            rows::each_row(&mut out, width, |row, out| {
                let table = row % n * d;
                out.copy_from_slice(&x[row * width..][..width]);
                turn(out, &cos[table..][..d], &sin[table..][..d], direction);
            });
            out
        })
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.turn(slice(x, layout)?, layout.shape().dims3()?, 1.0)?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = with_slices([&grad], |[g]| self.turn(g, x.dims3()?, -1.0))??;
        Ok(Some(tensor(dx, x.shape())?))
    }
}
