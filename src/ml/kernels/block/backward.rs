//! The backward pass of a block: the forward pass read from its end. Gradients of weights go to their buffers, those of
//! the input and the modulation are returned.

use super::super::activation::gelu_tanh_and_slope;
use super::super::attention;
use super::super::linear;
use super::super::mlp::times_slope;
use super::super::norm::moments;
use super::super::rows::{column_sums, each_row_summing, each_row2, each_row2_summing};
use super::super::scratch;
use super::super::simd::{simd, sum3};
use super::forward::{middle, modulated, prepared};
use super::*;
use crate::ml::backprop::{collect_bias, collect_weight};

simd! {
    /// Of gate (y + bias): the gradient of y from that of the product. `sums` is `[gate gradient | bias gradient]`.
    fn gate_backward(gate: &[f32], y: &[f32], bias: &[f32], grad: &[f32], dy: &mut [f32], sums: &mut [f32]) {
        let (dgate, dbias) = sums.split_at_mut(gate.len());
        for ((((dy, gate), y), b), (g, (dgate, dbias))) in
            dy.iter_mut().zip(gate).zip(y).zip(bias).zip(grad.iter().zip(dgate.iter_mut().zip(dbias)))
        {
            *dy = gate * g;
            *dgate += g * (y + b);
            *dbias += *dy;
        }
    }
}

simd! {
    /// GELU of x + bias, and its slope in place of x.
    fn gelu(x: &mut [f32], bias: &[f32], y: &mut [f32]) {
        for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
            (*y, *x) = gelu_tanh_and_slope(*x + b);
        }
    }
}

simd! {
    /// Of a modulated norm of x: grad + the gradient of x from that of the norm's output, `d`, in place of x, which is
    /// in `x`. `sums` is `[shift gradient | scale gradient]`.
    fn norm_backward(x: &mut [f32], d: &[f32], scale: &[f32], grad: &[f32], eps: f32, sums: &mut [f32]) {
        let n = x.len() as f32;
        let (mean, rstd) = moments(x, eps);
        let mean_g = sum3(d, scale, x, |g, s, _| g * (1.0 + s)) / n;
        let mean_gx = sum3(d, scale, x, |g, s, x| g * (1.0 + s) * ((x - mean) * rstd)) / n;
        let (dshift, dscale) = sums.split_at_mut(x.len());
        for ((((x, d), s), grad), (dshift, dscale)) in
            x.iter_mut().zip(d).zip(scale).zip(grad).zip(dshift.iter_mut().zip(dscale))
        {
            let normal = (*x - mean) * rstd;
            *dshift += d;
            *dscale += d * normal;
            *x = grad + rstd * (d * (1.0 + s) - mean_g - normal * mean_gx);
        }
    }
}

/// Gradients of x and of the modulation.
pub fn backward(
    x: &[f32],
    modulation: &[f32],
    grad: &[f32],
    mut saved: Saved,
    n: Numbers,
    s: Shapes,
    weights: &Weights,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let (d, inner, [qkv, proj, fc1, fc2]) = (s.dim, s.inner, n.layers);
    let of = |row: usize, which: usize| part(modulation, row / s.tokens, d, which);
    let mut dm = Parts { numbers: vec![0f32; modulation.len()], dim: d };

    // MLP.
    let mut dy = scratch::take(x.len());
    let sums = each_row_summing(&mut dy, d, s.tokens, 2 * d, |row, dy, sums| {
        let at = row * d;
        gate_backward(of(row, GATE_MLP), &saved.output[at..][..d], fc2[1], &grad[at..][..d], dy, sums);
    });
    drop(saved.output);
    dm.set(GATE_MLP, &sums, 2, 0);
    collect_bias(&weights.fc2.bias, &sums, 2 * d, d)?;
    let mut active = scratch::take(s.rows * inner);
    each_row2(&mut saved.hidden, &mut active, inner, |_, x, y| gelu(x, fc1[1], y));
    collect_weight(&weights.fc2.weight, &active, &dy, inner)?;
    let mut dhidden = active;
    linear::backward_input(&dy, fc2[0], inner, &mut dhidden);
    let slope = saved.hidden;
    let sums = each_row_summing(&mut dhidden, inner, s.rows, inner, |row, d, sums| {
        times_slope(d, &slope[row * inner..][..inner], sums);
    });
    drop(slope);
    collect_bias(&weights.fc1.bias, &sums, inner, 0)?;
    let (between, normal) = middle(x, modulation, &saved.attended, n, s);
    collect_weight(&weights.fc1.weight, &normal, &dhidden, d)?;
    let mut dnormal = normal;
    linear::backward_input(&dhidden, fc1[0], d, &mut dnormal);
    drop(dhidden);

    // The norm before it, and the gate of attention behind it.
    let mut dbetween = between;
    let sums = each_row2_summing(&mut dbetween, &mut dy, d, s.tokens, 4 * d, |row, x, dy, sums| {
        let at = row * d;
        let (norm_sums, gate_sums) = sums.split_at_mut(2 * d);
        norm_backward(x, &dnormal[at..][..d], of(row, SCALE_MLP), &grad[at..][..d], s.eps, norm_sums);
        gate_backward(of(row, GATE_ATTENTION), &saved.attended[at..][..d], proj[1], x, dy, gate_sums);
    });
    drop(saved.attended);
    dm.set(SHIFT_MLP, &sums, 4, 0);
    dm.set(SCALE_MLP, &sums, 4, 1);
    dm.set(GATE_ATTENTION, &sums, 4, 2);
    collect_bias(&weights.proj.bias, &sums, 4 * d, 3 * d)?;

    // Attention.
    collect_weight(&weights.proj.weight, &saved.mixed, &dy, d)?;
    let mut dmixed = dnormal;
    linear::backward_input(&dy, proj[0], d, &mut dmixed);
    drop(dy);
    let mut dqkv = scratch::take(saved.qkv.len());
    let ready = prepared(&saved.qkv, n, s);
    let given = ready.as_deref().unwrap_or(&saved.qkv);
    attention::backward(given, &saved.mixed, &saved.log_sums, &dmixed, s.attention, &mut dqkv);
    drop((ready, dmixed));
    let sums = n.qk.backward(&saved.qkv, &mut dqkv, 3 * d);
    if let Some((norms, _)) = &weights.qk_norm {
        let mut shares = sums.chunks(n.qk.dim);
        for t in norms.iter().flat_map(|l| [&l.weight, &l.bias]) {
            collect_bias(t, shares.next().unwrap_or_default(), n.qk.dim, 0)?;
        }
    }
    collect_bias(&weights.qkv.bias, &column_sums(&dqkv, 3 * d), 3 * d, 0)?;
    let normal = modulated(x, modulation, [SHIFT_ATTENTION, SCALE_ATTENTION], s);
    collect_weight(&weights.qkv.weight, &normal, &dqkv, d)?;
    let mut dnormal = normal;
    linear::backward_input(&dqkv, qkv[0], d, &mut dnormal);
    drop(dqkv);
    let mut dx = x.to_vec();
    let sums = each_row_summing(&mut dx, d, s.tokens, 2 * d, |row, x, sums| {
        let at = row * d;
        norm_backward(x, &dnormal[at..][..d], of(row, SCALE_ATTENTION), &dbetween[at..][..d], s.eps, sums);
    });
    dm.set(SHIFT_ATTENTION, &sums, 2, 0);
    dm.set(SCALE_ATTENTION, &sums, 2, 1);
    Ok((dx, dm.numbers))
}

/// The gradient of a modulation, put together vector by vector.
struct Parts {
    numbers: Vec<f32>,
    dim: usize,
}

impl Parts {
    /// Takes the vector `at` of the `of` that stand side by side in each sample's sums.
    fn set(&mut self, which: usize, sums: &[f32], of: usize, at: usize) {
        for (m, sums) in self.numbers.chunks_mut(6 * self.dim).zip(sums.chunks(of * self.dim)) {
            m[which * self.dim..][..self.dim].copy_from_slice(&sums[at * self.dim..][..self.dim]);
        }
    }
}
