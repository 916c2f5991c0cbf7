//! Mean and covariance of a stream of feature vectors, in f64, batch by batch.
//!
//! Batches are merged by the pairwise update of Chan, Golub and LeVeque (1983), which does not
//! subtract large sums from each other. The last digits depend on the split into batches, not on
//! the number of threads. Memory is dim^2 values, whatever the number of samples.

use super::gaussian::Gaussian;
use candle_core::{DType, Result, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

/// Columns of a covariance per task.
const COLUMNS: usize = 128;

/// Count, mean and sum of squared deviations so far.
#[derive(Debug, Clone)]
pub struct Stats {
    count: u64,
    mean: Vec<f64>,
    /// The lower triangle with the diagonal; the upper triangle is its mirror image and not stored.
    scatter: Mat<f64>,
}

impl Stats {
    pub fn new(dim: usize) -> Self {
        Self { count: 0, mean: vec![0.0; dim], scatter: Mat::zeros(dim, dim) }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Adds the rows of `features`, `[n, dim]` of any float type. A value that is not finite is an
    /// error.
    pub fn push(&mut self, features: &Tensor) -> Result<()> {
        let (n, dim) = features.dims2()?;
        if dim != self.dim() {
            bail!("features of dimension {dim} were added to statistics of dimension {}", self.dim());
        }
        if n == 0 {
            return Ok(());
        }
        let rows = features.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        if let Some(i) = rows.iter().position(|x| !x.is_finite()) {
            bail!("feature {} of sample {} of a batch is not finite", i % dim, i / dim);
        }
        let rows = MatRef::from_row_major_slice(&rows, n, dim);
        let mean: Vec<f64> = rows.col_iter().map(|c| c.iter().sum::<f64>() / n as f64).collect();
        let centred = Mat::from_fn(n, dim, |i, j| rows[(i, j)] - mean[j]);
        let mut batch = Self { count: n as u64, mean, scatter: Mat::zeros(dim, dim) };
        // Each block of columns is computed on one thread, so that sums do not depend on the number
        // of threads.
        let columns = batch.scatter.par_col_chunks_mut(COLUMNS).zip(centred.par_col_chunks(COLUMNS));
        columns.enumerate().for_each(|(block, (mut out, part))| {
            let first = block * COLUMNS;
            let below = centred.get(.., first..).transpose();
            matmul(out.rb_mut().subrows_mut(first, dim - first), Accum::Replace, below, part, 1.0, Par::Seq);
        });
        self.merge(&batch)
    }

    /// Adds the samples of `other`.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if other.dim() != self.dim() {
            bail!("statistics of dimensions {} and {} cannot be merged", self.dim(), other.dim());
        }
        let total = self.count + other.count;
        if other.count == 0 {
            return Ok(());
        }
        let delta: Vec<f64> = other.mean.iter().zip(&self.mean).map(|(b, a)| b - a).collect();
        let share = other.count as f64 / total as f64;
        let cross = self.count as f64 * share;
        let columns = self.scatter.par_col_iter_mut().zip(other.scatter.par_col_iter()).enumerate();
        columns.for_each(|(j, (sums, more))| {
            let below = sums.subrows_mut(j, delta.len() - j).iter_mut().zip(more.subrows(j, delta.len() - j).iter());
            below.zip(&delta[j..]).for_each(|((sum, x), d)| *sum += x + cross * d * delta[j]);
        });
        self.mean.iter_mut().zip(&delta).for_each(|(m, d)| *m += d * share);
        self.count = total;
        Ok(())
    }

    /// Covariance with divisor n - 1, as in `numpy.cov`.
    pub fn covariance(&self) -> Result<Mat<f64>> {
        if self.count < 2 {
            bail!("a covariance needs at least 2 samples, got {}", self.count);
        }
        let scale = 1.0 / (self.count - 1) as f64;
        Ok(Mat::from_fn(self.dim(), self.dim(), |i, j| scale * self.scatter[(i.max(j), i.min(j))]))
    }

    /// The mean and covariance, as a Fréchet distance needs them.
    pub fn gaussian(&self) -> Result<Gaussian> {
        Gaussian::new(self.mean.clone(), self.covariance()?)
    }
}
