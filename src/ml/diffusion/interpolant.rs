//! The path x_t = alpha(t) x + sigma(t) noise from data to noise, and how training draws t.
//!
//! This file fixes the time convention of the program: t = 0 is data, t = 1 is noise, as in REPA
//! and ERW. The original code of SiT runs the other way.

use crate::rng::{self, Purpose};
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// The path between data and noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// alpha = 1 - t, sigma = t
    Linear,
    /// alpha = cos(pi t / 2), sigma = sin(pi t / 2)
    Cosine,
}

/// alpha, sigma and their derivatives with respect to t.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    pub alpha: f64,
    pub sigma: f64,
    pub d_alpha: f64,
    pub d_sigma: f64,
}

impl Path {
    /// The coefficients at time t, from 0 (data) to 1 (noise).
    pub fn at(self, t: f64) -> Coefficients {
        match self {
            Self::Linear => Coefficients { alpha: 1.0 - t, sigma: t, d_alpha: -1.0, d_sigma: 1.0 },
            Self::Cosine => {
                let (sin, cos) = (FRAC_PI_2 * t).sin_cos();
                Coefficients { alpha: cos, sigma: sin, d_alpha: -FRAC_PI_2 * sin, d_sigma: FRAC_PI_2 * cos }
            }
        }
    }

    /// The point x_t and the velocity dx_t/dt of a batch. x and noise are `[B, ..]`, with one t per
    /// sample.
    pub fn point_and_velocity(self, x: &Tensor, noise: &Tensor, t: &[f32]) -> Result<(Tensor, Tensor)> {
        if x.dim(0)? != t.len() {
            bail!("{} times for a batch {:?}", t.len(), x.dims());
        }
        let mut dims = vec![1; x.rank()];
        dims[0] = t.len();
        let column = |pick: fn(Coefficients) -> f64| {
            let values: Vec<f32> = t.iter().map(|t| pick(self.at(f64::from(*t))) as f32).collect();
            Tensor::from_vec(values, dims.as_slice(), x.device())?.to_dtype(x.dtype())
        };
        let mix = |a: Tensor, b: Tensor| x.broadcast_mul(&a)? + noise.broadcast_mul(&b)?;
        Ok((mix(column(|c| c.alpha)?, column(|c| c.sigma)?)?, mix(column(|c| c.d_alpha)?, column(|c| c.d_sigma)?)?))
    }
}

/// How training draws t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeDistribution {
    /// Uniform in [0, 1).
    Uniform,
    /// The ratio sigma / alpha is e^z with z standard normal, as in EDM: on the linear path t = 1 /
    /// (1 + e^-z).
    Lognormal,
}

impl TimeDistribution {
    /// One t per sample of the batch of a step.
    pub fn draw(self, path: Path, seed: u64, step: u64, slots: &[u64]) -> Vec<f32> {
        slots
            .iter()
            .map(|slot| {
                let mut stream = rng::stream(seed, Purpose::Time, step, *slot);
                match self {
                    Self::Uniform => stream.uniform(),
                    Self::Lognormal => {
                        let ratio = f64::from(stream.normal()).exp();
                        match path {
                            Path::Linear => (ratio / (1.0 + ratio)) as f32,
                            Path::Cosine => (FRAC_2_PI * ratio.atan()) as f32,
                        }
                    }
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_data_and_noise_and_derivatives_are_slopes() {
        for path in [Path::Linear, Path::Cosine] {
            let (data, noise) = (path.at(0.0), path.at(1.0));
            assert!((data.alpha - 1.0).abs() < 1e-15 && data.sigma.abs() < 1e-15);
            assert!((noise.sigma - 1.0).abs() < 1e-15 && noise.alpha.abs() < 1e-15);
            for t in [0.1, 0.5, 0.9] {
                let (a, b, c) = (path.at(t - 1e-6), path.at(t + 1e-6), path.at(t));
                assert!(((b.alpha - a.alpha) / 2e-6 - c.d_alpha).abs() < 1e-8);
                assert!(((b.sigma - a.sigma) / 2e-6 - c.d_sigma).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn lognormal_times_have_the_stated_ratio() {
        let slots: Vec<u64> = (0..4000).collect();
        for path in [Path::Linear, Path::Cosine] {
            let times = TimeDistribution::Lognormal.draw(path, 1, 0, &slots);
            let logs: Vec<f64> = times
                .iter()
                .map(|t| {
                    let c = path.at(f64::from(*t));
                    (c.sigma / c.alpha).ln()
                })
                .collect();
            let mean = logs.iter().sum::<f64>() / 4000.0;
            let var = logs.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 4000.0;
            assert!(mean.abs() < 0.06 && (var - 1.0).abs() < 0.1, "mean {mean}, variance {var}");
        }
    }
}
