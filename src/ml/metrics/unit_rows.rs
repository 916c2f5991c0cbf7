//! Features in the form that measures of representations need: clipped at a quantile, then scaled
//! to length 1 (Huh et al. 2024; `prepare_features` and `compute_score` in their
//! `measure_alignment.py`). One f32 copy, made row by row. It does not know what the values mean.

use crate::kernels::with_slices;
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Rows are padded with zeros to a multiple of this. Then every product of two blocks has one shape
/// and one order of sums, and a similarity has the same bits wherever its two samples are.
pub const BLOCK: usize = 512;
/// As in `torch.nn.functional.normalize`. A row of zeros stays zero.
const EPS: f64 = 1e-12;

/// Over which values the quantile is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// Over all values of the set: the one at position `floor(q n)` of the sorted values (the
    /// original with `--precise`).
    Set,
    /// Over each sample's values, interpolated, then averaged over samples (the original without
    /// `--precise`).
    Sample,
}

/// Where features are clipped. Otherwise a few large activations would dominate every similarity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamp {
    /// Quantile of absolute values, from 0 to 1; 1 clips nothing.
    pub quantile: f64,
    pub over: Over,
}

impl Clamp {
    /// No clipping.
    pub const NONE: Self = Self { quantile: 1.0, over: Over::Set };
}

/// Samples as rows of length 1, f32 in main memory.
#[derive(Debug, Clone)]
pub struct UnitRows {
    len: usize,
    dim: usize,
    /// `[len rounded up to BLOCK, dim]`, zeros after the last sample.
    data: Vec<f32>,
}

impl UnitRows {
    /// From `features` `[n, d]`, or `[n, t, d]` averaged over t tokens. An error names the sample
    /// with a value that is not finite.
    pub fn of(features: &Tensor, clamp: Clamp) -> Result<Self> {
        if !(0.0..=1.0).contains(&clamp.quantile) {
            bail!("quantile {} is not between 0 and 1", clamp.quantile);
        }
        let features = features.to_dtype(DType::F32)?;
        let features = match features.rank() {
            2 => features,
            3 => features.mean(1)?,
            rank => bail!("features of {rank} dimensions, not [n, d] or [n, tokens, d]"),
        };
        let (len, dim) = features.dims2()?;
        if len == 0 || dim == 0 {
            bail!("features need samples and a dimension above 0, got {len} samples of dimension {dim}");
        }
        let features = features.to_device(&Device::Cpu)?.contiguous()?;
        with_slices([&features], |[rows]| {
            if let Some(at) = rows.iter().position(|x| !x.is_finite()) {
                bail!("feature {} of sample {} is not finite", at % dim, at / dim);
            }
            let limit = if clamp.quantile < 1.0 { quantile(rows, dim, clamp) } else { f32::INFINITY };
            Ok(Self { len, dim, data: unit(rows, dim, limit) })
        })?
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn blocks(&self) -> usize {
        self.len.div_ceil(BLOCK)
    }

    /// `[BLOCK, dim]`, with rows of zeros after the last sample.
    pub fn block(&self, i: usize) -> &[f32] {
        &self.data[i * BLOCK * self.dim..][..BLOCK * self.dim]
    }

    /// Samples in block `i`.
    pub fn rows_in(&self, i: usize) -> usize {
        BLOCK.min(self.len - i * BLOCK)
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.dim..][..self.dim]
    }

    /// Whether all samples are the same. Then none is near another, and nothing agrees with them.
    pub fn are_equal(&self) -> bool {
        (1..self.len).all(|i| self.row(i) == self.row(0))
    }
}

fn unit(rows: &[f32], dim: usize, limit: f32) -> Vec<f32> {
    let padded = (rows.len() / dim).next_multiple_of(BLOCK);
    let mut data = vec![0f32; padded * dim];
    data.par_chunks_mut(dim).zip(rows.par_chunks(dim)).for_each(|(out, row)| {
        let square: f64 = row.iter().map(|x| f64::from(x.clamp(-limit, limit)).powi(2)).sum();
        let scale = 1.0 / square.sqrt().max(EPS);
        out.iter_mut().zip(row).for_each(|(o, x)| *o = (f64::from(x.clamp(-limit, limit)) * scale) as f32);
    });
    data
}

fn quantile(rows: &[f32], dim: usize, clamp: Clamp) -> f32 {
    match clamp.over {
        Over::Set => selected(rows, (clamp.quantile * rows.len() as f64) as usize),
        Over::Sample => {
            let each: Vec<f64> = rows.par_chunks(dim).map(|row| interpolated(row, clamp.quantile)).collect();
            (each.iter().sum::<f64>() / each.len() as f64) as f32
        }
    }
}

/// The absolute value at position `at` in ascending order, without sorting. The bit patterns of
/// absolute values are in their order, so counting by the upper and then by the lower half finds
/// it. Positions past the end give the largest.
fn selected(values: &[f32], at: usize) -> f32 {
    const HALF: usize = 1 << 16;
    let magnitude = |x: &f32| x.abs().to_bits();
    let place = |at: usize, counts: &[usize]| {
        let mut left = at;
        for (i, count) in counts.iter().enumerate() {
            if left < *count {
                return (i, left);
            }
            left -= count;
        }
        (0, 0)
    };
    let mut counts = vec![0usize; HALF];
    values.iter().for_each(|x| counts[(magnitude(x) >> 16) as usize] += 1);
    let (upper, left) = place(at.min(values.len().saturating_sub(1)), &counts);
    counts.fill(0);
    let same = values.iter().map(magnitude).filter(|bits| (bits >> 16) as usize == upper);
    same.for_each(|bits| counts[bits as usize % HALF] += 1);
    let (lower, _) = place(left, &counts);
    f32::from_bits((upper << 16 | lower) as u32)
}

/// `torch.quantile` of absolute values: linear between the two nearest positions.
fn interpolated(row: &[f32], q: f64) -> f64 {
    let mut sorted: Vec<f32> = row.iter().map(|x| x.abs()).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let at = q * (sorted.len() - 1) as f64;
    let low = f64::from(sorted[at as usize]);
    let high = f64::from(sorted[(at as usize + 1).min(sorted.len() - 1)]);
    low + at.fract() * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_without_sorting() {
        let values: Vec<f32> = (0..999).map(|i| ((i * 577 % 999) as f32 - 400.0) * 1.7).collect();
        let mut sorted: Vec<f32> = values.iter().map(|x| x.abs()).collect();
        sorted.sort_unstable_by(f32::total_cmp);
        for at in [0, 1, 500, 949, 998] {
            assert_eq!(selected(&values, at), sorted[at]);
        }
        assert_eq!(selected(&values, 5000), sorted[998]);
        assert_eq!(selected(&[0.0, -0.0], 1), 0.0);
    }

    #[test]
    fn quantiles_interpolate_as_torch_does() {
        // torch.quantile(torch.tensor([3., 1., 2., 4.]), .95) = 3.85
        assert!((interpolated(&[-3.0, 1.0, 2.0, -4.0], 0.95) - 3.85).abs() < 1e-12);
        assert_eq!(interpolated(&[7.0], 0.95), 7.0);
    }
}
