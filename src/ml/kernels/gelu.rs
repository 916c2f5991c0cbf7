//! GELU in its tanh form: x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).

use super::simd::{exp, simd};
use super::{slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

const CHUNK: usize = 16 * 1024;
/// 2 sqrt(2 / pi)
const TWICE_ROOT: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

simd! {
    fn forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let twice_u = TWICE_ROOT * x * (1.0 + CUBIC * x * x);
            *y = x / (1.0 + exp(-twice_u));
        }
    }
}

simd! {
    fn backward(x: &[f32], grad: &[f32], dx: &mut [f32]) {
        for ((d, &g), &x) in dx.iter_mut().zip(grad).zip(x) {
            let twice_u = TWICE_ROOT * x * (1.0 + CUBIC * x * x);
            let sigmoid = 1.0 / (1.0 + exp(-twice_u));
            let slope = TWICE_ROOT * (1.0 + 3.0 * CUBIC * x * x);
            *d = g * (sigmoid + x * sigmoid * (1.0 - sigmoid) * slope);
        }
    }
}

pub struct GeluTanh;

impl CustomOp1 for GeluTanh {
    fn name(&self) -> &'static str {
        "gelu-tanh"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| forward(x, y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = with_slices([x, &grad], |[x, g]| {
            let mut dx = vec![0f32; x.len()];
            dx.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .zip(g.par_chunks(CHUNK))
                .for_each(|((dx, x), g)| backward(x, g, dx));
            dx
        })?;
        Ok(Some(tensor(dx, x.shape())?))
    }
}
