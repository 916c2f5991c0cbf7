//! The fixed tables of SiT: sin/cos positions, 2-D rotary angles, timestep sinusoid.

use candle_core::{DType, Device, Result, Tensor};

const BASE: f64 = 10_000.0;

/// Positions `[grid grid, dim]`. The first half of the channels encodes the column, the second the
/// row, each as sines then cosines (MAE's table, adopted by DiT).
pub fn sincos_2d(dim: usize, grid: usize) -> Result<Tensor> {
    let quarter = dim / 4;
    let axis = |position: usize, channel: usize| {
        let angle = position as f64 * BASE.powf(-((channel % quarter) as f64) / quarter as f64);
        if channel < quarter { angle.sin() } else { angle.cos() }
    };
    let mut table = Vec::with_capacity(grid * grid * dim);
    for row in 0..grid {
        for col in 0..grid {
            table.extend((0..2 * quarter).map(|c| axis(col, c) as f32));
            table.extend((0..2 * quarter).map(|c| axis(row, c) as f32));
        }
    }
    Tensor::from_vec(table, (grid * grid, dim), &Device::Cpu)
}

/// Cosines and sines `[grid grid, head_dim]` of the axial rotary embedding (EVA-02, LightningDiT).
/// The first half of the channels rotates with the row, the second with the column; neighbouring
/// channels share an angle.
pub fn rotary_2d(head_dim: usize, grid: usize) -> Result<(Tensor, Tensor)> {
    let per_axis = head_dim / 2;
    let mut angles = Vec::with_capacity(grid * grid * head_dim);
    for row in 0..grid {
        for col in 0..grid {
            for channel in 0..head_dim {
                let (position, i) = if channel < per_axis { (row, channel) } else { (col, channel - per_axis) };
                // f32 as in the published tables: their angles are products of rounded frequencies.
                let frequency = 1.0 / (BASE as f32).powf((i / 2 * 2) as f32 / per_axis as f32);
                angles.push(position as f32 * frequency);
            }
        }
    }
    let table = |f: fn(f64) -> f64| {
        let values: Vec<f32> = angles.iter().map(|a| f(f64::from(*a)) as f32).collect();
        Tensor::from_vec(values, (grid * grid, head_dim), &Device::Cpu)
    };
    Ok((table(f64::cos)?, table(f64::sin)?))
}

/// Times `[B]` to `[B, width]`: cosines, then sines, at geometric frequencies from 1 down to
/// 1/10000.
pub fn timestep_sinusoid(t: &Tensor, width: usize) -> Result<Tensor> {
    let half = width / 2;
    let frequencies: Vec<f32> = (0..half).map(|i| (-BASE.ln() as f32 * i as f32 / half as f32).exp()).collect();
    let frequencies = Tensor::from_vec(frequencies, (1, half), t.device())?;
    let angles = t.to_dtype(DType::F32)?.unsqueeze(1)?.broadcast_mul(&frequencies)?;
    Tensor::cat(&[angles.cos()?, angles.sin()?], 1)?.to_dtype(t.dtype())
}
