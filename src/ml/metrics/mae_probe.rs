//! MAE's linear probe (He et al. 2022, appendix A.1), by which REPA and others print accuracies of
//! representations: a BatchNorm without parameters and a linear layer, trained for 90 epochs by LARS
//! (You et al. 2017) without weight decay, at a learning rate of 0.1 per 256 samples that rises for
//! ten epochs and falls by half a cosine.
//!
//! This is its form without augmentation, on features that were computed once: MAE crops and mirrors
//! images anew in every epoch. It stops where the recipe ends and not at an optimum, so its numbers
//! depend on seed and scale; those of [`super::linear_probe`] do not. And they depend on the size of
//! the set: a step of LARS changes the weights by a thousandth of the learning rate, so they grow by a
//! factor of about exp(n / 5,700) from their small start, whatever the batch. On ImageNet that is
//! plenty, on 10,000 images it is little training.

use super::linear_probe::{LinearProbe, Scaling, add_gradient, checked_rows};
use crate::kernels::with_slices;
use crate::rng::{self, Purpose};
use candle_core::{Result, Tensor, bail};

/// MAE's batch.
pub const BATCH: usize = 16_384;

/// Of LARS: the size of a step is this times that of the weights, times the learning rate.
const TRUST: f64 = 0.001;
const MOMENTUM: f64 = 0.9;
/// Of BatchNorm: added to variances; and the share of a batch in the running statistics.
const EPS: f64 = 1e-6;
const SHARE: f64 = 0.1;
/// Standard deviation of the first weights.
const DEVIATION: f64 = 0.01;

/// How long a probe is trained, and on how many samples at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub epochs: usize,
    /// Epochs over which the learning rate rises.
    pub warmup: usize,
    /// Samples of a step. An epoch has as many whole batches as there are; with fewer samples than
    /// this, one batch of all.
    pub batch: usize,
    /// Highest learning rate, per 256 samples of a batch.
    pub base_rate: f64,
}

impl Schedule {
    /// MAE's, with another batch.
    pub fn mae(batch: usize) -> Self {
        Self { epochs: 90, warmup: 10, batch, base_rate: 0.1 }
    }

    /// The learning rate at a time in epochs.
    fn rate(&self, batch: usize, at: f64) -> f64 {
        let (epochs, warmup) = (self.epochs as f64, self.warmup as f64);
        let peak = self.base_rate * batch as f64 / 256.0;
        match at < warmup {
            true => peak * at / warmup,
            false => peak * 0.5 * (1.0 + (std::f64::consts::PI * (at - warmup) / (epochs - warmup)).cos()),
        }
    }
}

/// Trains a probe on `features` `[n, d]` with labels from 0 up to `classes`. The first weights and
/// the order of samples are functions of the seed.
///
/// # Errors
/// Labels that do not fit; features that are not finite; fewer than two samples.
pub fn fit(features: &Tensor, labels: &[i64], classes: usize, batch: usize, seed: u64) -> Result<LinearProbe> {
    let (n, dim) = features.dims2()?;
    let mut draws = rng::stream(seed, Purpose::Probe, 0, 0);
    let weights = (0..dim * classes).map(|_| DEVIATION * f64::from(draws.normal())).collect();
    let order = |epoch: usize| rng::permutation(seed, epoch as u64, n);
    train(features, labels, classes, &Schedule::mae(batch), weights, &order)
}

/// The same with given first weights `[dim][classes]`, and the order of the samples of each epoch.
///
/// # Errors
/// See [`fit`].
pub fn train(
    features: &Tensor,
    labels: &[i64],
    classes: usize,
    schedule: &Schedule,
    weights: Vec<f64>,
    order: &dyn Fn(usize) -> Vec<u32>,
) -> Result<LinearProbe> {
    let (n, dim) = features.dims2()?;
    let batch = schedule.batch.min(n);
    if batch < 2 {
        bail!("MAE's linear probe needs batches of at least two samples, got {batch}");
    }
    let features = checked_rows(features, labels, classes)?;
    with_slices([&features], |[rows]| {
        let split = weights.len();
        let mut theta = weights;
        theta.extend(vec![0.0; classes]);
        let (mut momentum, mut gradient) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
        let mut running = Moments { mean: vec![0.0; dim], variance: vec![1.0; dim] };
        let (steps, mut loss) = (n / batch, 0.0);
        for epoch in 0..schedule.epochs {
            for (step, ids) in order(epoch).chunks_exact(batch).enumerate() {
                let picked: Vec<f32> = ids.iter().flat_map(|id| &rows[*id as usize * dim..][..dim]).copied().collect();
                let of_batch: Vec<i64> = ids.iter().map(|id| labels[*id as usize]).collect();
                let moments = Moments::of(&picked, dim);
                running.follow(&moments, batch);
                gradient.fill(0.0);
                let x = moments.scaling().apply(&picked);
                loss = add_gradient(&x, dim, &of_batch, classes, &theta, &mut gradient) / batch as f64;
                gradient.iter_mut().for_each(|g| *g /= batch as f64);
                let rate = schedule.rate(batch, epoch as f64 + step as f64 / steps as f64);
                let ratio = match (norm(&theta[..split]), norm(&gradient[..split])) {
                    (of_weights, of_gradient) if of_weights > 0.0 && of_gradient > 0.0 => {
                        TRUST * of_weights / of_gradient
                    }
                    _ => 1.0,
                };
                for (i, ((p, m), g)) in theta.iter_mut().zip(&mut momentum).zip(&gradient).enumerate() {
                    // The bias takes plain steps.
                    *m = MOMENTUM * *m + g * if i < split { ratio } else { 1.0 };
                    *p -= rate * *m;
                }
            }
        }
        LinearProbe::new(running.scaling(), classes, theta, loss, schedule.epochs * steps)
    })
}

/// Mean and variance of every feature.
struct Moments {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Moments {
    /// Of these rows, the variance with divisor n.
    fn of(rows: &[f32], dim: usize) -> Self {
        let n = (rows.len() / dim) as f64;
        let (mut mean, mut variance) = (vec![0.0; dim], vec![0.0; dim]);
        for row in rows.chunks(dim) {
            mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x) / n);
        }
        for row in rows.chunks(dim) {
            for ((v, m), x) in variance.iter_mut().zip(&mean).zip(row) {
                *v += (f64::from(*x) - m).powi(2) / n;
            }
        }
        Self { mean, variance }
    }

    /// The running statistics after a batch of `n`; they take its variance with divisor n - 1.
    fn follow(&mut self, batch: &Self, n: usize) {
        let unbiased = n as f64 / (n - 1) as f64;
        let pairs = |a: &mut Vec<f64>, b: &[f64], factor: f64| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a = (1.0 - SHARE) * *a + SHARE * factor * b);
        };
        pairs(&mut self.mean, &batch.mean, 1.0);
        pairs(&mut self.variance, &batch.variance, unbiased);
    }

    fn scaling(&self) -> Scaling {
        let inverse = self.variance.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
        Scaling { mean: self.mean.clone(), inverse }
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}
