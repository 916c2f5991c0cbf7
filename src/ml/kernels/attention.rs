//! Softmax attention on a packed qkv tensor, in tiles of rows of one head.
//!
//! A tile of rows sees all columns at once, so its softmax is exact and the backward pass can rebuild it from q and k
//! alone: nothing N x N is ever kept, and no running maxima are needed.

use super::matmul::{Mat, Threads, matmul};
use super::simd::{self, exp, simd};
use super::{slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Rows of scores held at a time.
const TILE: usize = 128;

simd! {
    fn softmax(row: &mut [f32]) {
        let top = simd::max(row);
        for v in row.iter_mut() {
            *v = exp(*v - top);
        }
        let scale = 1.0 / simd::sum(row, |v| v);
        for v in row.iter_mut() {
            *v *= scale;
        }
    }
}

simd! {
    /// Gradient of the scores, in place of that of the probabilities.
    fn softmax_backward(p: &[f32], dp: &mut [f32], scale: f32) {
        let mean = simd::dot(p, dp);
        for (d, p) in dp.iter_mut().zip(p) {
            *d = p * (*d - mean) * scale;
        }
    }
}

/// Input qkv `[B, N, 3 H D]` in the order (3, H, D), output `[B, N, H D]`.
pub struct Attention {
    pub heads: usize,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    dim: usize,
}

impl Sizes {
    fn new(dims: (usize, usize, usize), heads: usize) -> Result<Self> {
        let (batch, tokens, width) = dims;
        if heads == 0 || width == 0 || !width.is_multiple_of(3 * heads) {
            bail!("attention of {heads} heads over rows of {width} numbers");
        }
        Ok(Self { batch, tokens, heads, dim: width / 3 / heads })
    }

    /// Numbers in one token of qkv.
    fn stride(self) -> usize {
        3 * self.heads * self.dim
    }

    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// `count` rows from `first` of part 0 (q), 1 (k) or 2 (v) of a head.
    fn rows(self, qkv: &[f32], head: usize, part: usize, first: usize, count: usize) -> Mat<'_> {
        let (sample, head) = (head / self.heads, head % self.heads);
        let start = (sample * self.tokens + first) * self.stride() + (part * self.heads + head) * self.dim;
        Mat::with_stride(&qkv[start..], count, self.dim, self.stride())
    }

    /// Probabilities of a tile of rows, into `p`.
    fn probabilities(self, qkv: &[f32], head: usize, first: usize, count: usize, p: &mut [f32]) {
        let (q, k) = (self.rows(qkv, head, 0, first, count), self.rows(qkv, head, 1, 0, self.tokens));
        matmul(p, false, self.scale(), q, k.t(), Threads::One);
        p.chunks_mut(self.tokens).for_each(softmax);
    }

    fn tiles(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.tokens).step_by(TILE).map(move |first| (first, TILE.min(self.tokens - first)))
    }

    fn scratch(self) -> Vec<f32> {
        vec![0f32; TILE.min(self.tokens) * self.tokens]
    }
}

fn forward(qkv: &[f32], s: Sizes) -> Vec<f32> {
    // By head first, since products are written to dense blocks; then by token.
    let mut by_head = vec![0f32; s.batch * s.heads * s.tokens * s.dim];
    // A task is a tile, so that a single head keeps all threads busy too.
    let tiles: Vec<(usize, usize, &mut [f32])> = by_head
        .chunks_mut((s.tokens * s.dim).max(1))
        .enumerate()
        .flat_map(|(head, out)| {
            let parts = out.chunks_mut(TILE * s.dim).enumerate();
            parts.map(move |(tile, out)| (head, tile * TILE, out))
        })
        .collect();
    tiles.into_par_iter().for_each_init(
        || s.scratch(),
        |p, (head, first, out)| {
            let count = out.len() / s.dim;
            let p = &mut p[..count * s.tokens];
            s.probabilities(qkv, head, first, count, p);
            matmul(out, false, 1.0, Mat::new(p, count, s.tokens), s.rows(qkv, head, 2, 0, s.tokens), Threads::One);
        },
    );
    by_token(&by_head, s, 1)
}

/// Gradient of qkv from that of the output.
fn backward(qkv: &[f32], grad: &[f32], s: Sizes) -> Vec<f32> {
    let part = s.tokens * s.dim;
    let width = s.heads * s.dim;
    let mut by_head = vec![0f32; s.batch * s.heads * 3 * part];
    by_head.par_chunks_mut(3 * part).enumerate().for_each_init(
        || (s.scratch(), s.scratch()),
        |(p, dp), (head, out)| {
            let (dq, rest) = out.split_at_mut(part);
            let (dk, dv) = rest.split_at_mut(part);
            let (k, v) = (s.rows(qkv, head, 1, 0, s.tokens), s.rows(qkv, head, 2, 0, s.tokens));
            for (first, count) in s.tiles() {
                let (p, dp) = (&mut p[..count * s.tokens], &mut dp[..count * s.tokens]);
                let start = (head / s.heads * s.tokens + first) * width + head % s.heads * s.dim;
                let g = Mat::with_stride(&grad[start..], count, s.dim, width);
                s.probabilities(qkv, head, first, count, p);
                matmul(dv, true, 1.0, Mat::new(p, count, s.tokens).t(), g, Threads::One);
                matmul(dp, false, 1.0, g, v.t(), Threads::One);
                for (p, dp) in p.chunks(s.tokens).zip(dp.chunks_mut(s.tokens)) {
                    softmax_backward(p, dp, s.scale());
                }
                let ds = Mat::new(dp, count, s.tokens);
                matmul(&mut dq[first * s.dim..][..count * s.dim], false, 1.0, ds, k, Threads::One);
                matmul(dk, true, 1.0, ds.t(), s.rows(qkv, head, 0, first, count), Threads::One);
            }
        },
    );
    by_token(&by_head, s, 3)
}

/// `[B, H, parts, N, D]` to `[B, N, parts, H, D]`.
fn by_token(by_head: &[f32], s: Sizes, parts: usize) -> Vec<f32> {
    let width = parts * s.heads * s.dim;
    let mut out = vec![0f32; by_head.len()];
    super::rows::each_row(&mut out, width, |row, out| {
        let (sample, token) = (row / s.tokens, row % s.tokens);
        for (i, out) in out.chunks_mut(s.dim).enumerate() {
            let (part, head) = (i / s.heads, i % s.heads);
            let from = (((sample * s.heads + head) * parts + part) * s.tokens + token) * s.dim;
            out.copy_from_slice(&by_head[from..][..s.dim]);
        }
    });
    out
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let s = Sizes::new(layout.shape().dims3()?, self.heads)?;
        let out = forward(slice(qkv, layout)?, s);
        Ok((CpuStorage::F32(out), (s.batch, s.tokens, s.heads * s.dim).into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let s = Sizes::new(qkv.dims3()?, self.heads)?;
        let grad = grad.contiguous()?;
        let d = with_slices([qkv, &grad], |[qkv, grad]| backward(qkv, grad, s))?;
        Ok(Some(tensor(d, qkv.shape())?))
    }
}
