//! Gated residual x + gate * y, with one gate vector per sample.

use super::simd::simd;
use super::{gradient_of, rows, slice, tensor, with_slices};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

simd! {
    fn forward(x: &[f32], gate: &[f32], y: &[f32], out: &mut [f32]) {
        for (((o, x), g), y) in out.iter_mut().zip(x).zip(gate).zip(y) {
            *o = x + g * y;
        }
    }
}

simd! {
    fn backward(gate: &[f32], y: &[f32], grad: &[f32], dy: &mut [f32], dgate: &mut [f32]) {
        for ((((dy, dgate), gate), y), g) in dy.iter_mut().zip(dgate).zip(gate).zip(y).zip(grad) {
            *dy = gate * g;
            *dgate += y * g;
        }
    }
}

/// Inputs x `[B, N, D]`, gate `[B, D]`, y `[B, N, D]`.
pub struct GatedResidual;

impl CustomOp3 for GatedResidual {
    fn name(&self) -> &'static str {
        "gated-residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gate: &CpuStorage,
        gate_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, n, d) = x_layout.shape().dims3()?;
        if gate_layout.dims() != [b, d] || y_layout.dims() != [b, n, d] {
            bail!(
                "a gated residual needs [B, N, D], gate [B, D] and [B, N, D], got {:?}, {:?} and {:?}",
                x_layout.dims(),
                gate_layout.dims(),
                y_layout.dims()
            );
        }
        let (x, gate, y) = (slice(x, x_layout)?, slice(gate, gate_layout)?, slice(y, y_layout)?);
        let mut out = vec![0f32; x.len()];
        rows::each_row(&mut out, d, |row, out| {
            let group = row / n;
            forward(&x[row * d..][..d], &gate[group * d..][..d], &y[row * d..][..d], out);
        });
        Ok((CpuStorage::F32(out), (b, n, d).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate: &Tensor,
        y: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, n, d) = y.dims3()?;
        let grad = grad.contiguous()?;
        let (dy, dgate) = with_slices([gate, y, &grad], |[gs, ys, grads]| {
            let mut dy = vec![0f32; ys.len()];
            let dgate = rows::each_row_summing(&mut dy, d, n, d, |row, dy, dgate| {
                let at = row * d;
                backward(&gs[row / n * d..][..d], &ys[at..][..d], &grads[at..][..d], dy, dgate);
            });
            (dy, dgate)
        })?;
        Ok((
            gradient_of(x, || Ok(grad.clone()))?,
            gradient_of(gate, || tensor(dgate, gate.shape()))?,
            gradient_of(y, || tensor(dy, y.shape()))?,
        ))
    }
}
