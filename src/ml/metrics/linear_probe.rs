//! Linear probe: multinomial logistic regression on frozen features, a common test of a
//! representation (Alain and Bengio 2017). Features are standardised by the mean and standard
//! deviation of the training set. The weights, not the biases, have an L2 penalty, so the optimum
//! is unique, and equal to that of scikit-learn's `LogisticRegression(C = 1 / (n l2))`. Every step
//! uses the whole set, with sums in f64: nothing is random.

use super::lbfgs::minimise;
use crate::kernels::with_slices;
use candle_core::{DType, Device, Result, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Samples per block; of these, samples per thread; and features of the gradient per thread.
const ROWS: usize = 1024;
const PART: usize = 128;
const COLUMNS: usize = 64;

/// How a probe is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fitting {
    /// Factor of half the squared weights, added to the mean cross-entropy.
    pub l2: f64,
    /// The fit ends when no entry of the gradient is above this.
    pub tolerance: f64,
    /// Maximum number of steps.
    pub max_steps: usize,
}

/// A fitted probe.
#[derive(Debug)]
pub struct LinearProbe {
    scaling: Scaling,
    classes: usize,
    /// Weights `[dim][classes]`, then biases `[classes]`.
    theta: Vec<f64>,
    /// Mean cross-entropy plus penalty on the training set.
    pub loss: f64,
    /// Steps taken.
    pub steps: usize,
    /// Whether the gradient reached the tolerance.
    pub converged: bool,
}

impl LinearProbe {
    /// Fits to `features` `[n, d]` with labels from 0 up to `classes`.
    pub fn fit(features: &Tensor, labels: &[i64], classes: usize, how: &Fitting) -> Result<Self> {
        let (_, dim) = features.dims2()?;
        let features = checked_rows(features, labels, classes)?;
        with_slices([&features], |[rows]| {
            let scaling = Scaling::of(rows, dim);
            let start = vec![0.0; (dim + 1) * classes];
            let found = minimise(start, how.tolerance, how.max_steps, |theta, gradient| {
                objective(&scaling, rows, labels, classes, how.l2, theta, gradient)
            });
            let (theta, loss) = (found.at, found.value);
            Self { scaling, classes, theta, loss, steps: found.steps, converged: found.converged }
        })
    }

    /// One that was trained in another way, for as long as that takes.
    pub(super) fn new(scaling: Scaling, classes: usize, theta: Vec<f64>, loss: f64, steps: usize) -> Self {
        Self { scaling, classes, theta, loss, steps, converged: true }
    }

    /// Logits `[m][classes]` of samples `[m, d]`.
    pub fn logits(&self, features: &Tensor) -> Result<Vec<f64>> {
        let (_, dim) = features.dims2()?;
        if dim != self.scaling.mean.len() {
            bail!("samples of dimension {dim} do not match a probe of dimension {}", self.scaling.mean.len());
        }
        let features = in_memory(features)?;
        with_slices([&features], |[rows]| logits(&self.scaling.apply(rows), dim, self.classes, &self.theta))
    }

    /// Share of samples `[m, d]` whose label has the largest logit. A label that the probe does not
    /// know counts as wrong.
    pub fn accuracy(&self, features: &Tensor, labels: &[i64]) -> Result<f64> {
        let (m, dim) = features.dims2()?;
        if m == 0 || m != labels.len() || dim != self.scaling.mean.len() {
            let trained = self.scaling.mean.len();
            bail!(
                "{m} samples of dimension {dim} with {} labels do not match a probe of dimension {trained}",
                labels.len()
            );
        }
        let features = in_memory(features)?;
        with_slices([&features], |[rows]| {
            let mut right = 0;
            for (rows, labels) in rows.chunks(ROWS * dim).zip(labels.chunks(ROWS)) {
                let logits = logits(&self.scaling.apply(rows), dim, self.classes, &self.theta);
                let best = |row: &[f64]| (1..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b });
                right += logits.chunks(self.classes).zip(labels).filter(|(row, l)| best(row) as i64 == **l).count();
            }
            right as f64 / m as f64
        })
    }
}

fn check(n: usize, labels: &[i64], classes: usize) -> Result<()> {
    if n == 0 || n != labels.len() || classes == 0 {
        bail!("a linear probe needs one label per sample, got {n} samples and {} labels", labels.len());
    }
    match labels.iter().find(|l| **l < 0 || **l >= classes as i64) {
        Some(label) => bail!("label {label} is outside the {classes} classes"),
        None => Ok(()),
    }
}

/// Features that can be trained on, in memory.
pub(super) fn checked_rows(features: &Tensor, labels: &[i64], classes: usize) -> Result<Tensor> {
    let (n, dim) = features.dims2()?;
    check(n, labels, classes)?;
    let features = in_memory(features)?;
    let odd = with_slices([&features], |[rows]| rows.iter().position(|x| !x.is_finite()))?;
    if let Some(at) = odd {
        bail!("feature {} of sample {} is not finite", at % dim, at / dim);
    }
    Ok(features)
}

fn in_memory(features: &Tensor) -> Result<Tensor> {
    features.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()
}

/// Mean and inverse standard deviation of every feature.
#[derive(Debug)]
pub(super) struct Scaling {
    pub(super) mean: Vec<f64>,
    pub(super) inverse: Vec<f64>,
}

impl Scaling {
    /// Of these rows, with divisor n. A constant feature is not scaled.
    fn of(rows: &[f32], dim: usize) -> Self {
        let n = (rows.len() / dim) as f64;
        let mean_of = |f: &dyn Fn(usize, f32) -> f64| {
            let mut sums = vec![0.0; dim];
            rows.chunks(dim)
                .for_each(|row| sums.iter_mut().zip(row).enumerate().for_each(|(j, (s, x))| *s += f(j, *x)));
            sums.into_iter().map(|s| s / n).collect::<Vec<f64>>()
        };
        let mean = mean_of(&|_, x| f64::from(x));
        let variance = mean_of(&|j, x| (f64::from(x) - mean[j]).powi(2));
        // A smaller variance is the rounding error of a constant.
        let constant = |j: usize| variance[j] <= (f64::from(f32::EPSILON) * mean[j]).powi(2);
        let inverse = (0..dim).map(|j| if constant(j) { 1.0 } else { 1.0 / variance[j].sqrt() }).collect();
        Self { mean, inverse }
    }

    pub(super) fn apply(&self, rows: &[f32]) -> Vec<f64> {
        let dim = self.mean.len();
        let mut out = vec![0.0; rows.len()];
        out.par_chunks_mut(dim).zip(rows.par_chunks(dim)).for_each(|(out, row)| {
            for (j, (o, x)) in out.iter_mut().zip(row).enumerate() {
                *o = (f64::from(*x) - self.mean[j]) * self.inverse[j];
            }
        });
        out
    }
}

/// Mean cross-entropy plus penalty, with the gradient.
fn objective(
    scaling: &Scaling,
    rows: &[f32],
    labels: &[i64],
    classes: usize,
    l2: f64,
    theta: &[f64],
    gradient: &mut [f64],
) -> f64 {
    let dim = scaling.mean.len();
    let (weights, n) = (dim * classes, labels.len() as f64);
    gradient.fill(0.0);
    let mut loss = 0.0;
    for (rows, labels) in rows.chunks(ROWS * dim).zip(labels.chunks(ROWS)) {
        let x = scaling.apply(rows);
        loss += add_gradient(&x, dim, labels, classes, theta, gradient);
    }
    gradient.iter_mut().for_each(|g| *g /= n);
    gradient.iter_mut().zip(&theta[..weights]).for_each(|(g, w)| *g += l2 * w);
    loss / n + l2 / 2.0 * theta[..weights].iter().map(|w| w * w).sum::<f64>()
}

/// Adds the gradient of the cross-entropies of standardised rows `x`, and returns their sum.
pub(super) fn add_gradient(
    x: &[f64],
    dim: usize,
    labels: &[i64],
    classes: usize,
    theta: &[f64],
    gradient: &mut [f64],
) -> f64 {
    let mut residual = logits(x, dim, classes, theta);
    // In the order of samples, whatever thread computed them.
    let losses: Vec<f64> =
        residual.par_chunks_mut(classes).zip(labels).map(|(row, label)| cross_entropy(row, *label as usize)).collect();
    let (slopes, biases) = gradient.split_at_mut(dim * classes);
    residual.chunks(classes).for_each(|row| biases.iter_mut().zip(row).for_each(|(b, r)| *b += r));
    let count = labels.len();
    let residual = MatRef::from_row_major_slice(&residual, count, classes);
    let x = MatRef::from_row_major_slice(x, count, dim);
    let slopes = MatMut::from_column_major_slice_mut(slopes, classes, dim);
    let parts = slopes.par_col_chunks_mut(COLUMNS).zip(x.par_col_chunks(COLUMNS));
    parts.for_each(|(out, part)| matmul(out, Accum::Add, residual.transpose(), part, 1.0, Par::Seq));
    losses.iter().sum()
}

/// Logits `[rows, classes]` of standardised rows `x`.
fn logits(x: &[f64], dim: usize, classes: usize, theta: &[f64]) -> Vec<f64> {
    let (weights, biases) = theta.split_at(dim * classes);
    let weights = MatRef::from_column_major_slice(weights, classes, dim);
    let mut out = vec![0.0; x.len() / dim * classes];
    out.par_chunks_mut(PART * classes).zip(x.par_chunks(PART * dim)).for_each(|(out, x)| {
        out.chunks_mut(classes).for_each(|row| row.copy_from_slice(biases));
        let count = x.len() / dim;
        let (x, out) =
            (MatRef::from_row_major_slice(x, count, dim), MatMut::from_row_major_slice_mut(out, count, classes));
        matmul(out, Accum::Add, x, weights.transpose(), 1.0, Par::Seq);
    });
    out
}

/// Cross-entropy of one sample. Replaces its logits by the gradient: probabilities minus the
/// one-hot label.
fn cross_entropy(row: &mut [f64], label: usize) -> f64 {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let right = row[label] - top;
    row.iter_mut().for_each(|z| *z = (*z - top).exp());
    let total: f64 = row.iter().sum();
    row.iter_mut().for_each(|p| *p /= total);
    row[label] -= 1.0;
    total.ln() - right
}
