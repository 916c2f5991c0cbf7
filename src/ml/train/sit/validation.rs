//! Validation losses for SiT training, at fixed points: the same latents, noise and times at every
//! validation, so that two losses differ only by what was learned. (A training loss varies by
//! several per cent from batch to batch.) This file knows nothing of the order of training, nor how
//! the network is evaluated.

use crate::data::latents::Latents;
use crate::diffusion::alignment::Alignment;
use crate::diffusion::interpolant::Path;
use crate::diffusion::loss;
use crate::diffusion::sampler::Velocity;
use crate::rng::{self, Purpose};
use crate::train::Losses;
use candle_core::{DType, Device, Result, Tensor};

/// Number of times at which the velocity loss is evaluated: the midpoints of eighths of the path,
/// because the loss varies tenfold along it.
const TIMES: u64 = 8;

/// The projections `[B, N, Z]` of latents `[B, C, h, w]` at times `[B]` and classes `[B]`, for each
/// encoder.
pub type Projections<'a> = dyn FnMut(&Tensor, &Tensor, &Tensor) -> Result<Vec<Tensor>> + 'a;

/// Fixed latents with their rows and classes.
pub struct Validation {
    /// Row indices in the set of latents.
    rows: Vec<u64>,
    /// Fixed samples from the posteriors, scaled, `[n, C, h, w]`.
    latents: Tensor,
    classes: Tensor,
    seed: u64,
    /// Samples per batch.
    batch: usize,
}

impl Validation {
    /// Validates on the first `samples` latents, `batch` at a time.
    pub fn new(latents: &Latents, samples: u64, seed: u64, batch: usize, device: &Device) -> Result<Self> {
        let rows: Vec<u64> = (0..samples.min(latents.len())).collect();
        let noise = rng::normal_rows(seed, Purpose::Validation, 0, &rows, &latents.shape()?, device)?;
        let classes = Tensor::new(latents.labels(&rows), device)?;
        Ok(Self { latents: latents.draw(&rows, &[], &noise)?, classes, rows, seed, batch: batch.max(1) })
    }

    /// Velocity losses: the mean over all times (`velocity`), then one per time (`velocity@t`).
    pub fn velocity(&self, path: Path, network: &mut Velocity<'_>) -> Result<Losses> {
        let device = self.latents.device();
        let mut losses = vec![("velocity".to_string(), 0.0)];
        for time in 0..TIMES {
            let t = (time as f64 + 0.5) / TIMES as f64;
            let loss = self.mean(self.rows.len(), |rows, x, y| {
                let noise = rng::normal_rows(self.seed, Purpose::Validation, time + 1, rows, &x.dims()[1..], device)?;
                let times = vec![t as f32; rows.len()];
                let (point, target) = path.point_and_velocity(x, &noise, &times)?;
                loss::velocity(&network(&point, &Tensor::new(times, device)?, y)?, &target)
            })?;
            losses[0].1 += loss / TIMES as f64;
            losses.push((format!("velocity@{t}"), loss));
        }
        Ok(losses)
    }

    /// The alignment of clean latents with the features that `features` returns for their rows. If
    /// the loss compares the images of a batch, only full batches count, because the loss is
    /// smaller among fewer images.
    pub fn alignment(
        &self,
        alignment: &Alignment,
        features: impl Fn(&[u64]) -> Result<Vec<Tensor>>,
        network: &mut Projections<'_>,
    ) -> Result<Losses> {
        let all = self.rows.len();
        let count = if alignment.over_pairs().is_some() && all > self.batch { all - all % self.batch } else { all };
        let loss = self.mean(count, |rows, x, y| {
            let t = Tensor::zeros(rows.len(), DType::F32, x.device())?;
            Ok(alignment.losses(features(rows)?, &network(x, &t, y)?)?.alignment)
        })?;
        Ok(vec![("alignment".into(), loss)])
    }

    /// The mean over the first `count` samples of a loss that is a mean over its batch.
    fn mean(&self, count: usize, mut loss: impl FnMut(&[u64], &Tensor, &Tensor) -> Result<Tensor>) -> Result<f64> {
        let mut sum = 0.0;
        for start in (0..count).step_by(self.batch) {
            let n = self.batch.min(count - start);
            let (x, y) = (self.latents.narrow(0, start, n)?, self.classes.narrow(0, start, n)?);
            let mean = loss(&self.rows[start..start + n], &x, &y)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
            sum += f64::from(mean) * n as f64;
        }
        Ok(sum / count as f64)
    }
}
