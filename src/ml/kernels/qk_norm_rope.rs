//! Prepares queries and keys for attention: LayerNorm per head (QK-norm), then the rotary
//! embedding, in place on the packed qkv rows. Values are unchanged.

use super::norm::{Backward, moments};
use super::rope::turn_row;
use super::rows;
use super::simd::simd;

/// LayerNorm weights of one head, for queries and for keys.
#[derive(Debug, Clone, Copy)]
pub struct Norms<'a> {
    /// Scale and shift.
    pub q: [&'a [f32]; 2],
    pub k: [&'a [f32]; 2],
    pub eps: f32,
}

/// Cosines and sines `[N, head dim]`; neighbouring pairs are equal.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

/// The steps to apply; none if both are absent.
#[derive(Debug, Clone, Copy)]
pub struct Qk<'a> {
    /// Elements per head.
    pub dim: usize,
    pub tokens: usize,
    pub norms: Option<Norms<'a>>,
    pub rope: Option<Tables<'a>>,
}

#[inline(always)]
fn normalise(x: &mut [f32], scale: &[f32], shift: &[f32], eps: f32) {
    let (mean, rstd) = moments(x, eps);
    for ((x, scale), shift) in x.iter_mut().zip(scale).zip(shift) {
        *x = (*x - mean) * rstd * scale + shift;
    }
}

/// `d` holds the gradient of the output and is replaced by that of the input; `sums` is
/// `[scale gradient | shift gradient]`.
#[inline(always)]
fn normalise_backward(x: &[f32], scale: &[f32], eps: f32, d: &mut [f32], sums: &mut [f32]) {
    let row = Backward::new(x, d, scale, 0.0, eps);
    let (dscale, dshift) = sums.split_at_mut(x.len());
    for ((((d, x), s), dscale), dshift) in d.iter_mut().zip(x).zip(scale).zip(dscale).zip(dshift) {
        let (g, (normal, dx)) = (*d, row.at(*x, *d, *s));
        *dscale += g * normal;
        *dshift += g;
        *d = dx;
    }
}

impl<'a> Qk<'a> {
    /// The table rows of a token.
    #[inline(always)]
    fn position(&self, tables: Tables<'a>, row: usize) -> (&'a [f32], &'a [f32]) {
        let at = row % self.tokens * self.dim;
        (&tables.cos[at..][..self.dim], &tables.sin[at..][..self.dim])
    }

    fn does_nothing(&self) -> bool {
        self.norms.is_none() && self.rope.is_none()
    }

    /// In place on qkv `[B N, 3 H D]`.
    pub fn forward(&self, qkv: &mut [f32], width: usize) {
        if !self.does_nothing() {
            rows::each_row(qkv, width, |row, out| forward_row(self, row, out));
        }
    }

    /// In place, from the gradient of the output of [`forward`](Self::forward) to that of its
    /// input, `before`. Returns the gradients of the norms: scale and shift of queries, then of
    /// keys.
    pub fn backward(&self, before: &[f32], grad: &mut [f32], width: usize) -> Vec<f32> {
        if self.does_nothing() {
            return vec![];
        }
        let (all, sums) = (grad.len() / width, if self.norms.is_some() { 4 * self.dim } else { 0 });
        rows::each_row_summing(grad, width, all, sums, |row, d, sums| {
            let before = if self.norms.is_some() { &before[row * width..][..width] } else { &[][..] };
            backward_row(self, row, before, d, sums);
        })
    }
}

simd! {
    fn forward_row(qk: &Qk, row: usize, out: &mut [f32]) {
        let (q, rest) = out.split_at_mut(out.len() / 3);
        if let Some(norms) = qk.norms {
            let k = &mut rest[..q.len()];
            for (part, [scale, shift]) in [(q, norms.q), (k, norms.k)] {
                for head in part.chunks_exact_mut(qk.dim) {
                    normalise(head, scale, shift, norms.eps);
                }
            }
        }
        if let Some(tables) = qk.rope {
            let (cos, sin) = qk.position(tables, row);
            turn_row(out, cos, sin, 1.0);
        }
    }
}

simd! {
    fn backward_row(qk: &Qk, row: usize, before: &[f32], d: &mut [f32], sums: &mut [f32]) {
        if let Some(tables) = qk.rope {
            let (cos, sin) = qk.position(tables, row);
            turn_row(d, cos, sin, -1.0);
        }
        if let Some(norms) = qk.norms {
            let third = d.len() / 3;
            let (q_sums, k_sums) = sums.split_at_mut(2 * qk.dim);
            for (part, [scale, _], sums) in [(0, norms.q, q_sums), (1, norms.k, k_sums)] {
                let heads = before[part * third..][..third].chunks_exact(qk.dim);
                for (x, d) in heads.zip(d[part * third..][..third].chunks_exact_mut(qk.dim)) {
                    normalise_backward(x, scale, norms.eps, d, sums);
                }
            }
        }
    }
}
