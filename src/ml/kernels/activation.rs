//! Activation functions: GELU, x Φ(x), in its exact form and two approximations, and SiLU.
//!
//! The approximations are x sigmoid(s), with s = 2 sqrt(2/pi) (x + 0.044715 x^3) for the tanh form
//! and s = 1.702 x for CLIP's. SiLU has s = x. The exact form is computed as max(x, 0) - |x|
//! Φ(-|x|), which keeps its relative accuracy where Φ is small.

use super::simd::{exp, simd};
use super::{slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

const CHUNK: usize = 16 * 1024;
/// 2 sqrt(2 / pi)
const TWICE_ROOT: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;
const QUICK: f32 = 1.702;
/// 1 / sqrt(2 pi)
const NORMAL: f32 = 0.398_942_3;

/// GELU, tanh form.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    let twice_u = TWICE_ROOT * x * (1.0 + CUBIC * x * x);
    x / (1.0 + exp(-twice_u))
}

/// GELU, tanh form, and its derivative.
#[inline(always)]
pub fn gelu_tanh_and_slope(x: f32) -> (f32, f32) {
    let twice_u = TWICE_ROOT * x * (1.0 + CUBIC * x * x);
    let sigmoid = 1.0 / (1.0 + exp(-twice_u));
    let inner = TWICE_ROOT * (1.0 + 3.0 * CUBIC * x * x);
    (x * sigmoid, sigmoid + x * sigmoid * (1.0 - sigmoid) * inner)
}

/// SiLU and its derivative.
#[inline(always)]
pub fn silu_and_slope(x: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-x));
    (x * sigmoid, sigmoid + x * sigmoid * (1.0 - sigmoid))
}

simd! {
    fn tanh(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = gelu_tanh(x);
        }
    }
}

simd! {
    fn tanh_backward(x: &[f32], grad: &[f32], dx: &mut [f32]) {
        for ((d, &g), &x) in dx.iter_mut().zip(grad).zip(x) {
            *d = g * gelu_tanh_and_slope(x).1;
        }
    }
}

simd! {
    /// x sigmoid(rate x)
    fn gated(x: &[f32], rate: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x / (1.0 + exp(-rate * x));
        }
    }
}

simd! {
    fn gated_backward(x: &[f32], rate: f32, grad: &[f32], dx: &mut [f32]) {
        for ((d, &g), &x) in dx.iter_mut().zip(grad).zip(x) {
            let sigmoid = 1.0 / (1.0 + exp(-rate * x));
            *d = g * (sigmoid + x * sigmoid * (1.0 - sigmoid) * rate);
        }
    }
}

/// e^(-a²/2) and Φ(-a) for a >= 0.
///
/// Φ(-a) e^(a²/2) decreases smoothly from 1/2, like 1/a for large a. The polynomial in 1 / (1 +
/// 0.28 a) is a minimax fit with relative error 1.7e-7.
#[inline(always)]
fn tail(a: f32) -> (f32, f32) {
    let t = 1.0 / (1.0 + 0.28 * a);
    let p = 2.479_657_4e-2;
    let p = p * t - 9.389_45e-2;
    let p = p * t + 9.291_192e-2;
    let p = p * t - 6.857_029e-3;
    let p = p * t + 7.296_852e-2;
    let p = p * t + 8.357_94e-2;
    let p = p * t + 1.030_918e-1;
    let p = p * t + 1.116_993_7e-1;
    let p = p * t + 1.117_038_7e-1;
    let bell = exp(-0.5 * a * a);
    (bell, bell * (p * t))
}

simd! {
    fn erf(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let a = x.abs();
            *y = 0.5 * (x + a) - a * tail(a).1;
        }
    }
}

simd! {
    fn erf_backward(x: &[f32], grad: &[f32], dx: &mut [f32]) {
        for ((d, &g), &x) in dx.iter_mut().zip(grad).zip(x) {
            let (bell, below) = tail(x.abs());
            let phi = if x < 0.0 { below } else { 1.0 - below };
            *d = g * (phi + x * (NORMAL * bell));
        }
    }
}

/// An activation function.
#[derive(Debug, Clone, Copy)]
pub enum Activation {
    GeluTanh,
    GeluErf,
    QuickGelu,
    Silu,
}

impl Activation {
    pub fn forward(self, x: &[f32], y: &mut [f32]) {
        match self {
            Self::GeluTanh => tanh(x, y),
            Self::GeluErf => erf(x, y),
            Self::QuickGelu => gated(x, QUICK, y),
            Self::Silu => gated(x, 1.0, y),
        }
    }

    pub fn backward(self, x: &[f32], grad: &[f32], dx: &mut [f32]) {
        match self {
            Self::GeluTanh => tanh_backward(x, grad, dx),
            Self::GeluErf => erf_backward(x, grad, dx),
            Self::QuickGelu => gated_backward(x, QUICK, grad, dx),
            Self::Silu => gated_backward(x, 1.0, grad, dx),
        }
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| self.forward(x, y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = with_slices([x, &grad], |[x, g]| {
            let mut dx = vec![0f32; x.len()];
            dx.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .zip(g.par_chunks(CHUNK))
                .for_each(|((dx, x), g)| self.backward(x, g, dx));
            dx
        })?;
        Ok(Some(tensor(dx, x.shape())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of x Φ(x) from SciPy 1.17 (`scipy.special.ndtr`).
    #[test]
    fn the_exact_form_keeps_its_relative_accuracy() {
        let known = [
            (-12.0f32, -2.131_778_5e-32_f64),
            (-6.0, -5.919_525_9e-9),
            (-3.0, -4.049_694_1e-3),
            (-1.0, -0.158_655_254),
            (-0.25, -0.100_323_419),
            (0.0, 0.0),
            (0.25, 0.149_676_581),
            (1.0, 0.841_344_746),
            (3.0, 2.995_950_31),
            (6.0, 5.999_999_994),
        ];
        let x: Vec<f32> = known.iter().map(|(x, _)| *x).collect();
        let mut y = vec![0f32; x.len()];
        erf(&x, &mut y);
        for ((x, want), got) in known.iter().zip(y) {
            let error = (f64::from(got) - want).abs();
            assert!(error <= 2e-6 * want.abs(), "{x}: {got:e} instead of {want:e}");
        }
    }
}
