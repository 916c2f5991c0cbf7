//! The backward pass of a block, from its output to its input. Gradients of weights go to their
//! buffers; those of the input and the modulation are returned.

use super::forward::{middle, modulated, prepared};
use super::layout::*;
use crate::kernels::activation::gelu_tanh_and_slope;
use crate::kernels::attention;
use crate::kernels::autograd::collect_bias;
use crate::kernels::linear;
use crate::kernels::linear::collect_weight;
use crate::kernels::mlp::times_slope;
use crate::kernels::norm;
use crate::kernels::rows::{column_sums, each_row_summing, each_row2, each_row2_summing};
use crate::kernels::scratch::{self, Scratch};
use crate::kernels::simd::simd;
use candle_core::Result;

simd! {
    /// For gate (y + bias): the gradient of y from that of the product. `sums` is
    /// `[gate gradient | bias gradient]`.
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
    /// GELU of x + bias; x is replaced by the derivative.
    fn gelu(x: &mut [f32], bias: &[f32], y: &mut [f32]) {
        for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
            (*y, *x) = gelu_tanh_and_slope(*x + b);
        }
    }
}

simd! {
    /// For a modulated norm of x: `grad` plus the gradient of x from that of the norm's output,
    /// `d`. The result replaces x. `sums` is `[shift gradient | scale gradient]`.
    fn norm_backward(x: &mut [f32], d: &[f32], scale: &[f32], grad: &[f32], eps: f32, sums: &mut [f32]) {
        let row = norm::Backward::new(x, d, scale, 1.0, eps);
        let (dshift, dscale) = sums.split_at_mut(x.len());
        for ((((x, d), s), grad), (dshift, dscale)) in
            x.iter_mut().zip(d).zip(scale).zip(grad).zip(dshift.iter_mut().zip(dscale))
        {
            let (normal, dx) = row.at(*x, *d, *s);
            *dshift += d;
            *dscale += d * normal;
            *x = grad + dx;
        }
    }
}

/// The inputs of one backward pass, and the gradient of the modulation that it assembles.
struct Pass<'a> {
    x: &'a [f32],
    modulation: &'a [f32],
    grad: &'a [f32],
    n: Numbers<'a>,
    s: Shapes,
    weights: &'a Weights,
    dm: Parts,
}

/// Gradients of x and of the modulation.
pub fn backward(
    x: &[f32],
    modulation: &[f32],
    grad: &[f32],
    saved: Saved,
    n: Numbers,
    s: Shapes,
    weights: &Weights,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let dm = Parts { numbers: vec![0f32; modulation.len()], dim: s.dim };
    let mut pass = Pass { x, modulation, grad, n, s, weights, dm };
    let Saved { qkv, mixed, log_sums, attended, hidden, output } = saved;
    let (dbetween, dy) = pass.mlp(attended, hidden, output)?;
    let dx = pass.attention([qkv, mixed, log_sums], &dbetween, dy)?;
    Ok((dx, pass.dm.numbers))
}

impl Pass<'_> {
    fn of(&self, row: usize, which: usize) -> &[f32] {
        part(self.modulation, row / self.s.tokens, self.s.dim, which)
    }

    /// The MLP, the norm before it and the gate after attention. Returns the gradients of the rows
    /// between the two halves and of the output of attention.
    fn mlp(&mut self, attended: Scratch, mut hidden: Scratch, output: Scratch) -> Result<(Scratch, Scratch)> {
        let (s, [_, proj, fc1, fc2]) = (self.s, self.n.layers);
        let (d, inner, grad) = (s.dim, s.inner, self.grad);
        let mut dy = scratch::take(self.x.len());
        let sums = each_row_summing(&mut dy, d, s.tokens, 2 * d, |row, dy, sums| {
            let at = row * d;
            gate_backward(self.of(row, GATE_MLP), &output[at..][..d], fc2[1], &grad[at..][..d], dy, sums);
        });
        drop(output);
        self.dm.set(GATE_MLP, &sums, 2, 0);
        collect_bias(&self.weights.fc2.bias, &sums, 2 * d, d)?;
        let mut dhidden = scratch::take(s.rows * inner);
        each_row2(&mut hidden, &mut dhidden, inner, |_, x, y| gelu(x, fc1[1], y));
        collect_weight(&self.weights.fc2.weight, &dhidden, &dy, inner)?;
        linear::backward_input(&dy, fc2[0], inner, &mut dhidden);
        let sums = each_row_summing(&mut dhidden, inner, s.rows, inner, |row, d, sums| {
            times_slope(d, &hidden[row * inner..][..inner], sums);
        });
        drop(hidden);
        collect_bias(&self.weights.fc1.bias, &sums, inner, 0)?;
        let (mut dbetween, mut dnormal) = middle(self.x, self.modulation, &attended, self.n, s);
        collect_weight(&self.weights.fc1.weight, &dnormal, &dhidden, d)?;
        linear::backward_input(&dhidden, fc1[0], d, &mut dnormal);
        drop(dhidden);
        let sums = each_row2_summing(&mut dbetween, &mut dy, d, s.tokens, 4 * d, |row, x, dy, sums| {
            let at = row * d;
            let (norm_sums, gate_sums) = sums.split_at_mut(2 * d);
            norm_backward(x, &dnormal[at..][..d], self.of(row, SCALE_MLP), &grad[at..][..d], s.eps, norm_sums);
            gate_backward(self.of(row, GATE_ATTENTION), &attended[at..][..d], proj[1], x, dy, gate_sums);
        });
        for (at, which) in [SHIFT_MLP, SCALE_MLP, GATE_ATTENTION].into_iter().enumerate() {
            self.dm.set(which, &sums, 4, at);
        }
        collect_bias(&self.weights.proj.bias, &sums, 4 * d, 3 * d)?;
        Ok((dbetween, dy))
    }

    /// Attention and the norm before it. Returns the gradient of x.
    fn attention(
        &mut self,
        [before, mixed, log_sums]: [Scratch; 3],
        dbetween: &[f32],
        dy: Scratch,
    ) -> Result<Vec<f32>> {
        let (n, s, [qkv, proj, ..]) = (self.n, self.s, self.n.layers);
        let d = s.dim;
        collect_weight(&self.weights.proj.weight, &mixed, &dy, d)?;
        let mut dmixed = scratch::take(self.x.len());
        linear::backward_input(&dy, proj[0], d, &mut dmixed);
        drop(dy);
        let mut dqkv = scratch::take(before.len());
        let ready = prepared(&before, n, s);
        let given = ready.as_deref().unwrap_or(&before);
        attention::backward(given, &mixed, &log_sums, &dmixed, s.attention, &mut dqkv);
        drop((ready, dmixed));
        let sums = n.qk.backward(&before, &mut dqkv, 3 * d);
        if let Some((norms, _)) = &self.weights.qk_norm {
            let mut shares = sums.chunks(n.qk.dim);
            for t in norms.iter().flat_map(|l| [&l.weight, &l.bias]) {
                collect_bias(t, shares.next().unwrap_or_default(), n.qk.dim, 0)?;
            }
        }
        collect_bias(&self.weights.qkv.bias, &column_sums(&dqkv, 3 * d), 3 * d, 0)?;
        let mut dnormal = modulated(self.x, self.modulation, [SHIFT_ATTENTION, SCALE_ATTENTION], s);
        collect_weight(&self.weights.qkv.weight, &dnormal, &dqkv, d)?;
        linear::backward_input(&dqkv, qkv[0], d, &mut dnormal);
        drop(dqkv);
        let mut dx = self.x.to_vec();
        let sums = each_row_summing(&mut dx, d, s.tokens, 2 * d, |row, x, sums| {
            let at = row * d;
            let scale = self.of(row, SCALE_ATTENTION);
            norm_backward(x, &dnormal[at..][..d], scale, &dbetween[at..][..d], s.eps, sums);
        });
        self.dm.set(SHIFT_ATTENTION, &sums, 2, 0);
        self.dm.set(SCALE_ATTENTION, &sums, 2, 1);
        Ok(dx)
    }
}

/// The gradient of a modulation, assembled vector by vector.
struct Parts {
    numbers: Vec<f32>,
    dim: usize,
}

impl Parts {
    /// Copies vector `at` of the `of` vectors that lie side by side in each sample's sums.
    fn set(&mut self, which: usize, sums: &[f32], of: usize, at: usize) {
        for (m, sums) in self.numbers.chunks_mut(6 * self.dim).zip(sums.chunks(of * self.dim)) {
            m[which * self.dim..][..self.dim].copy_from_slice(&sums[at * self.dim..][..self.dim]);
        }
    }
}
