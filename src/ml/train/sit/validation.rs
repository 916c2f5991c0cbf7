//! Losses at fixed points, for trainings of a SiT: the same latents, noise and times at every look,
//! so that two losses differ by what was learned and by nothing else. (A training loss moves by
//! several per cent from batch to batch.) It knows nothing of the order of training.

use crate::data::latents::Latents;
use crate::diffusion::alignment::Alignment;
use crate::diffusion::interpolant::Path;
use crate::diffusion::loss;
use crate::models::sit::{SiT, SiTConfig};
use crate::nn::params::{Frozen, Tensors};
use crate::rng::{self, Purpose};
use crate::train::Losses;
use candle_core::{DType, Device, Result, Tensor};

/// Times at which the velocity is measured: the middles of eighths, since the loss differs tenfold
/// along the path.
const TIMES: u64 = 8;

/// Latents with what belongs to them.
pub struct Validation {
    /// Rows in their set.
    rows: Vec<u64>,
    /// Fixed draws from the posteriors, scaled, `[n, C, h, w]`.
    latents: Tensor,
    classes: Tensor,
    seed: u64,
    /// Samples at a time.
    batch: usize,
}

impl Validation {
    /// The first `samples` of these latents, `batch` at a time.
    pub fn new(latents: &Latents, samples: u64, seed: u64, batch: usize, device: &Device) -> Result<Self> {
        let rows: Vec<u64> = (0..samples.min(latents.len())).collect();
        let noise = rng::normal_rows(seed, Purpose::Validation, 0, &rows, &latents.shape()?, device)?;
        let classes = Tensor::new(latents.labels(&rows), device)?;
        Ok(Self { latents: latents.draw(&rows, &[], &noise)?, classes, rows, seed, batch: batch.max(1) })
    }

    /// Errors of the velocity: the mean, then at each time.
    pub fn velocity(&self, config: &SiTConfig, path: Path, weights: &Tensors) -> Result<Losses> {
        let (model, device) = (network(config, weights, &self.latents)?, self.latents.device());
        let mut losses = vec![("velocity".to_string(), 0.0)];
        for time in 0..TIMES {
            let t = (time as f64 + 0.5) / TIMES as f64;
            let loss = self.mean(self.rows.len(), |rows, x, y| {
                let noise = rng::normal_rows(self.seed, Purpose::Validation, time + 1, rows, &x.dims()[1..], device)?;
                let times = vec![t as f32; rows.len()];
                let (point, target) = path.point_and_velocity(x, &noise, &times)?;
                loss::velocity(&model.velocity(&point, &Tensor::new(times, device)?, y)?, &target)
            })?;
            losses[0].1 += loss / TIMES as f64;
            losses.push((format!("velocity@{t}"), loss));
        }
        Ok(losses)
    }

    /// The loss of a warmup, of clean latents with what `features` gives for their rows. Where it
    /// compares the images of a batch, of whole batches only: among fewer images it is smaller.
    pub fn alignment(
        &self,
        config: &SiTConfig,
        weights: &Tensors,
        alignment: &Alignment,
        features: impl Fn(&[u64]) -> Result<Vec<Tensor>>,
    ) -> Result<Losses> {
        let model = network(config, weights, &self.latents)?;
        let all = self.rows.len();
        let count = if alignment.is_over_pairs() && all > self.batch { all - all % self.batch } else { all };
        let loss = self.mean(count, |rows, x, y| {
            let t = Tensor::zeros(rows.len(), DType::F32, x.device())?;
            alignment.loss(features(rows)?, &model.projections(x, &t, y)?)
        })?;
        Ok(vec![("alignment".into(), loss)])
    }

    /// The mean over the first `count` samples of what is a mean over some of them.
    fn mean(&self, count: usize, loss: impl Fn(&[u64], &Tensor, &Tensor) -> Result<Tensor>) -> Result<f64> {
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

/// A network of these weights, apart from the one in training.
fn network(config: &SiTConfig, weights: &Tensors, like: &Tensor) -> Result<SiT> {
    SiT::new(config, Frozen::new(weights.clone()).builder(DType::F32, like.device()))
}
