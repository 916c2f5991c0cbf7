//! SwiGLU: rows `[gate | up]` to silu(gate) * up.

use super::simd::{exp, simd};
use super::{rows, slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

simd! {
    fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = g / (1.0 + exp(-g)) * u;
        }
    }
}

simd! {
    fn backward(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((dg, du), x), u), g) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(grad) {
            let sigmoid = 1.0 / (1.0 + exp(-x));
            *dg = g * u * sigmoid * (1.0 + x * (1.0 - sigmoid));
            *du = g * x * sigmoid;
        }
    }
}

/// Input `[.., 2 H]`, output `[.., H]`.
pub struct SwiGlu;

/// The output shape, and the length H of its rows.
fn halved(shape: &Shape) -> Result<(Shape, usize)> {
    let mut dims = shape.dims().to_vec();
    let half = match dims.last_mut() {
        Some(last) if *last > 0 && *last % 2 == 0 => {
            *last /= 2;
            *last
        }
        _ => bail!("SwiGLU needs an even last axis, got {shape:?}"),
    };
    Ok((dims.into(), half))
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (shape, half) = halved(layout.shape())?;
        let x = slice(x, layout)?;
        let mut y = vec![0f32; x.len() / 2];
        rows::each_row(&mut y, half, |row, y| {
            let (gate, up) = x[row * 2 * half..][..2 * half].split_at(half);
            forward(gate, up, y);
        });
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, half) = halved(x.shape())?;
        let grad = grad.contiguous()?;
        let dx = with_slices([x, &grad], |[x, grad]| {
            let mut dx = vec![0f32; x.len()];
            rows::each_row(&mut dx, 2 * half, |row, dx| {
                let (gate, up) = x[row * 2 * half..][..2 * half].split_at(half);
                let (dgate, dup) = dx.split_at_mut(half);
                backward(gate, up, &grad[row * half..][..half], dgate, dup);
            });
            dx
        })?;
        Ok(Some(tensor(dx, x.shape())?))
    }
}
