//! The forward pass of a block.

use super::layout::*;
use crate::kernels::activation::gelu_tanh;
use crate::kernels::rows::{each_row, each_row2};
use crate::kernels::scratch::{self, Scratch};
use crate::kernels::simd::simd;
use crate::kernels::{attention, linear, norm};

simd! {
    /// x + gate (y + bias)
    fn residual(x: &[f32], gate: &[f32], y: &[f32], bias: &[f32], out: &mut [f32]) {
        for ((((o, x), g), y), b) in out.iter_mut().zip(x).zip(gate).zip(y).zip(bias) {
            *o = x + g * (y + b);
        }
    }
}

simd! {
    fn gelu(x: &[f32], bias: &[f32], y: &mut [f32]) {
        for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
            *y = gelu_tanh(x + b);
        }
    }
}

/// x normalised, then modulated by the two given vectors.
pub fn modulated(x: &[f32], modulation: &[f32], [shift, scale]: [usize; 2], s: Shapes) -> Scratch {
    let d = s.dim;
    let mut y = scratch::take(x.len());
    each_row(&mut y, d, |row, y| {
        let of = |which| part(modulation, row / s.tokens, d, which);
        norm::forward(&x[row * d..][..d], of(shift), of(scale), 1.0, s.eps, true, y);
    });
    y
}

/// The rows between attention and MLP, and the same rows normalised and modulated.
pub fn middle(x: &[f32], modulation: &[f32], attended: &[f32], n: Numbers, s: Shapes) -> (Scratch, Scratch) {
    let (d, [_, bias]) = (s.dim, n.layers[1]);
    let (mut between, mut normal) = (scratch::take(x.len()), scratch::take(x.len()));
    each_row2(&mut between, &mut normal, d, |row, between, normal| {
        let of = |which| part(modulation, row / s.tokens, d, which);
        let at = row * d;
        residual(&x[at..][..d], of(GATE_ATTENTION), &attended[at..][..d], bias, between);
        norm::forward(between, of(SHIFT_MLP), of(SCALE_MLP), 1.0, s.eps, true, normal);
    });
    (between, normal)
}

/// Queries, keys and values after QK-norm and rotary embedding, from the saved ones.
pub fn prepared(qkv: &[f32], n: Numbers, s: Shapes) -> Option<Scratch> {
    n.qk.norms?;
    let mut ready = scratch::take(qkv.len());
    ready.copy_from_slice(qkv);
    n.qk.forward(&mut ready, 3 * s.dim);
    Some(ready)
}

/// Writes the output to `out`, if given, and returns what the backward pass needs.
pub fn forward(x: &[f32], modulation: &[f32], n: Numbers, s: Shapes, out: Option<&mut [f32]>) -> Saved {
    let (d, [qkv_layer, proj, fc1, fc2]) = (s.dim, n.layers);
    let mut qkv = scratch::take(s.rows * 3 * d);
    let normal = modulated(x, modulation, [SHIFT_ATTENTION, SCALE_ATTENTION], s);
    linear::forward(&normal, qkv_layer[0], Some(qkv_layer[1]), d, &mut qkv);
    drop(normal);
    if n.qk.norms.is_none() {
        n.qk.forward(&mut qkv, 3 * d);
    }
    let ready = prepared(&qkv, n, s);
    let (mut mixed, mut log_sums) = (scratch::take(x.len()), scratch::take(s.attention.rows_of_scores()));
    attention::forward(ready.as_deref().unwrap_or(&qkv), s.attention, &mut mixed, &mut log_sums);
    drop(ready);
    let mut attended = scratch::take(x.len());
    linear::forward(&mixed, proj[0], None, d, &mut attended);

    let (between, normal) = middle(x, modulation, &attended, n, s);
    let mut hidden = scratch::take(s.rows * s.inner);
    linear::forward(&normal, fc1[0], None, d, &mut hidden);
    drop(normal);
    let mut output = scratch::take(x.len());
    let mut active = scratch::take(hidden.len());
    each_row(&mut active, s.inner, |row, y| gelu(&hidden[row * s.inner..][..s.inner], fc1[1], y));
    linear::forward(&active, fc2[0], None, s.inner, &mut output);
    drop(active);
    if let Some(out) = out {
        each_row(out, d, |row, out| {
            let (at, gate) = (row * d, part(modulation, row / s.tokens, d, GATE_MLP));
            residual(&between[at..][..d], gate, &output[at..][..d], fc2[1], out);
        });
    }
    Saved { qkv, mixed, log_sums, attended, hidden, output }
}
