//! Softmax attention on a packed qkv tensor, in tiles of rows of one head.
//!
//! A tile of rows sees all columns at once, so its softmax is exact. No N x N matrix is kept: the
//! forward pass saves the log-sum-exp of each row, from which the backward pass recomputes the
//! probabilities in one pass over the scores (Dao et al., "FlashAttention", 2022, section 3.1,
//! without tiling of columns).

use super::matmul::{Mat, MatMut, Threads, matmul, matmul_into};
use super::simd::{self, exp, simd};
use super::{scratch, slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Rows of scores held at a time.
const TILE: usize = 128;

simd! {
    /// e^(x - max) in place. Returns the maximum and the sum.
    fn exponentials(row: &mut [f32]) -> (f32, f32) {
        let top = simd::max(row);
        for v in row.iter_mut() {
            *v = exp(*v - top);
        }
        (top, simd::sum(row, |v| v))
    }
}

simd! {
    fn scale(row: &mut [f32], by: f32) {
        for v in row {
            *v *= by;
        }
    }
}

simd! {
    /// Replaces scores by probabilities.
    fn probabilities(row: &mut [f32], log_sum: f32) {
        for v in row {
            *v = exp(*v - log_sum);
        }
    }
}

simd! {
    /// Gradient of the scores, in place of that of the probabilities. The sum of p dp over a row
    /// equals that of the output times its gradient.
    fn softmax_backward(p: &[f32], dp: &mut [f32], out: &[f32], grad: &[f32], scale: f32) {
        let mean = simd::dot(out, grad);
        for (d, p) in dp.iter_mut().zip(p) {
            *d = p * (*d - mean) * scale;
        }
    }
}

/// Sizes of one call.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    dim: usize,
}

impl Sizes {
    /// For qkv `[B, N, 3 H D]`.
    pub fn new(dims: (usize, usize, usize), heads: usize) -> Result<Self> {
        let (batch, tokens, width) = dims;
        if heads == 0 || width == 0 || !width.is_multiple_of(3 * heads) {
            bail!("attention: rows of {width} elements do not divide into {heads} heads");
        }
        Ok(Self { batch, tokens, heads, dim: width / 3 / heads })
    }

    /// Number of log-sums that [`forward`] saves.
    pub fn rows_of_scores(self) -> usize {
        self.batch * self.heads * self.tokens
    }

    /// Elements of one token of qkv.
    fn stride(self) -> usize {
        3 * self.heads * self.dim
    }

    /// Elements of one token of the output.
    fn width(self) -> usize {
        self.heads * self.dim
    }

    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// `count` rows from `first` of part 0 (q), 1 (k) or 2 (v) of a head. Heads are counted over
    /// all samples.
    fn rows(self, qkv: &[f32], head: usize, part: usize, first: usize, count: usize) -> Mat<'_> {
        let (sample, head) = (head / self.heads, head % self.heads);
        let start = (sample * self.tokens + first) * self.stride() + (part * self.heads + head) * self.dim;
        Mat::with_stride(&qkv[start..], count, self.dim, self.stride())
    }

    /// Offset of a head's elements in the output.
    fn start(self, head: usize, token: usize) -> usize {
        (head / self.heads * self.tokens + token) * self.width() + head % self.heads * self.dim
    }

    /// Writes the scores of a tile of rows to `s`.
    fn scores(self, qkv: &[f32], head: usize, first: usize, count: usize, s: &mut [f32]) {
        let (q, k) = (self.rows(qkv, head, 0, first, count), self.rows(qkv, head, 1, 0, self.tokens));
        matmul(s, false, self.scale(), q, k.t(), Threads::One);
    }

    fn tiles(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.tokens).step_by(TILE).map(move |first| (first, TILE.min(self.tokens - first)))
    }

    fn tile(self) -> scratch::Scratch {
        scratch::take(TILE.min(self.tokens) * self.tokens)
    }
}

/// Output `[B, N, H D]` and log-sums `[B, H, N]` for qkv `[B, N, 3 H D]` in the order (3, H, D).
pub fn forward(qkv: &[f32], s: Sizes, out: &mut [f32], log_sums: &mut [f32]) {
    // One task per tile, so that even a single head keeps all threads busy.
    let mut tasks = vec![];
    for (sample, out) in out.chunks_mut((s.tokens * s.width()).max(1)).enumerate() {
        for (tile, out) in out.chunks_mut(TILE * s.width()).enumerate() {
            let blocks = MatMut::columns(out, s.width(), s.dim);
            tasks.extend(blocks.into_iter().enumerate().map(|(h, out)| (sample * s.heads + h, tile, out)));
        }
    }
    let mut parts: Vec<Option<&mut [f32]>> = vec![];
    for log_sums in log_sums.chunks_mut(s.tokens.max(1)) {
        parts.extend(log_sums.chunks_mut(TILE).map(Some));
    }
    let tiles = s.tokens.div_ceil(TILE);
    let tasks: Vec<_> = tasks
        .into_iter()
        .filter_map(|(head, tile, out)| Some((head, tile * TILE, out, parts[head * tiles + tile].take()?)))
        .collect();
    tasks.into_par_iter().for_each_init(
        || s.tile(),
        |p, (head, first, mut out, log_sums)| {
            let count = log_sums.len();
            let p = &mut p[..count * s.tokens];
            s.scores(qkv, head, first, count, p);
            let sums: Vec<f32> = p
                .chunks_mut(s.tokens)
                .zip(log_sums)
                .map(|(row, log_sum)| {
                    let (top, sum) = exponentials(row);
                    *log_sum = top + sum.ln();
                    sum
                })
                .collect();
            let (p, v) = (Mat::new(p, count, s.tokens), s.rows(qkv, head, 2, 0, s.tokens));
            matmul_into(out.rows(0, count), false, 1.0, p, v, Threads::One);
            for (i, sum) in sums.into_iter().enumerate() {
                scale(out.row(i), 1.0 / sum);
            }
        },
    );
}

/// Gradient of qkv from that of the output. `out` and `log_sums` are the results of [`forward`].
pub fn backward(qkv: &[f32], out: &[f32], log_sums: &[f32], grad: &[f32], s: Sizes, dqkv: &mut [f32]) {
    let mut tasks = vec![];
    for (sample, d) in dqkv.chunks_mut((s.tokens * s.stride()).max(1)).enumerate() {
        let mut blocks: Vec<Option<MatMut>> = MatMut::columns(d, s.stride(), s.dim).into_iter().map(Some).collect();
        for h in 0..s.heads {
            let mut part = |i: usize| blocks.get_mut(i * s.heads + h).and_then(Option::take);
            if let (Some(dq), Some(dk), Some(dv)) = (part(0), part(1), part(2)) {
                tasks.push((sample * s.heads + h, [dq, dk, dv]));
            }
        }
    }
    tasks.into_par_iter().for_each_init(
        || (s.tile(), s.tile()),
        |(p, dp), (head, [mut dq, mut dk, mut dv])| {
            let (k, v) = (s.rows(qkv, head, 1, 0, s.tokens), s.rows(qkv, head, 2, 0, s.tokens));
            for (first, count) in s.tiles() {
                let (p, dp) = (&mut p[..count * s.tokens], &mut dp[..count * s.tokens]);
                let g = Mat::with_stride(&grad[s.start(head, first)..], count, s.dim, s.width());
                s.scores(qkv, head, first, count, p);
                for (row, log_sum) in p.chunks_mut(s.tokens).zip(&log_sums[head * s.tokens + first..]) {
                    probabilities(row, *log_sum);
                }
                let keep = first > 0;
                matmul_into(dv.rows(0, s.tokens), keep, 1.0, Mat::new(p, count, s.tokens).t(), g, Threads::One);
                matmul(dp, false, 1.0, g, v.t(), Threads::One);
                for (i, (p, dp)) in p.chunks(s.tokens).zip(dp.chunks_mut(s.tokens)).enumerate() {
                    let at = s.start(head, first + i);
                    softmax_backward(p, dp, &out[at..][..s.dim], &grad[at..][..s.dim], s.scale());
                }
                let ds = Mat::new(dp, count, s.tokens);
                matmul_into(dq.rows(first, count), false, 1.0, ds, k, Threads::One);
                let q = s.rows(qkv, head, 0, first, count);
                matmul_into(dk.rows(0, s.tokens), keep, 1.0, ds.t(), q, Threads::One);
            }
        },
    );
}

/// Input qkv `[B, N, 3 H D]` in the order (3, H, D), output `[B, N, H D]`.
pub struct Attention {
    heads: usize,
    /// Saved by the forward pass for the backward pass.
    log_sums: Mutex<Vec<f32>>,
}

impl Attention {
    pub fn new(heads: usize) -> Self {
        Self { heads, log_sums: Mutex::default() }
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let s = Sizes::new(layout.shape().dims3()?, self.heads)?;
        let mut out = vec![0f32; s.batch * s.tokens * s.width()];
        let mut log_sums = vec![0f32; s.rows_of_scores()];
        forward(slice(qkv, layout)?, s, &mut out, &mut log_sums);
        *self.log_sums.lock().unwrap_or_else(PoisonError::into_inner) = log_sums;
        Ok((CpuStorage::F32(out), (s.batch, s.tokens, s.width()).into()))
    }

    fn bwd(&self, qkv: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let s = Sizes::new(qkv.dims3()?, self.heads)?;
        let grad = grad.contiguous()?;
        let mut d = vec![0f32; qkv.elem_count()];
        let log_sums = self.log_sums.lock().unwrap_or_else(PoisonError::into_inner);
        with_slices([qkv, out, &grad], |[qkv, out, grad]| backward(qkv, out, &log_sums, grad, s, &mut d))?;
        Ok(Some(tensor(d, qkv.shape())?))
    }
}
