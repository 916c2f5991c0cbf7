//! Linear CKA (Kornblith et al. 2019; unbiased estimator: Nguyen et al. 2021), a similarity of two
//! representations of the same samples, as `cka` and `unbiased_cka` of Huh et al. 2024 (their
//! `metrics.py`): `HSIC(K, L) / (sqrt(HSIC(K, K) HSIC(L, L)) + 1e-6)` of the Gram matrices K and L.
//!
//! The n x n matrices are never built. With centred features A and B, `tr(K H L H) = |A^T B|^2`,
//! which is d x d. Centring does not change the unbiased estimate (it only adds terms that depend
//! on one index), which then needs only the diagonals, because all rows of a centred Gram matrix
//! sum to 0. Sums are in f64.

use super::cknna::{EPS, Estimator};
use super::unit_rows::UnitRows;
use candle_core::{Result, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

/// Samples per block, and columns of the product per thread.
const ROWS: usize = 1024;
const COLUMNS: usize = 128;

/// A prepared representation.
#[derive(Debug)]
pub struct Gram {
    rows: UnitRows,
    mean: Vec<f64>,
    /// Diagonal of the centred Gram matrix.
    squares: Vec<f64>,
    estimator: Estimator,
    /// HSIC with itself.
    own: f64,
}

impl Gram {
    pub fn new(rows: UnitRows, estimator: Estimator) -> Result<Self> {
        let n = rows.len();
        if n < estimator.least() {
            bail!("CKA of {n} samples: needs {}", estimator.least());
        }
        let mut mean = vec![0.0; rows.dim()];
        (0..n).for_each(|i| mean.iter_mut().zip(rows.row(i)).for_each(|(m, x)| *m += f64::from(*x)));
        mean.iter_mut().for_each(|m| *m /= n as f64);
        let square = |i| rows.row(i).iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2)).sum();
        let squares = (0..n).into_par_iter().map(square).collect();
        let mut gram = Self { rows, mean, squares, estimator, own: 0.0 };
        // With equal samples, centring would leave only the rounding of the mean.
        if !gram.rows.are_equal() {
            gram.own = hsic(&gram, &gram);
        }
        Ok(gram)
    }

    /// `count` centred samples from `first`, `[count, d]` row by row.
    fn centred(&self, first: usize, count: usize) -> Vec<f64> {
        let row = |i: usize| self.rows.row(i).iter().zip(&self.mean).map(|(x, m)| f64::from(*x) - m);
        (first..first + count).flat_map(row).collect()
    }
}

/// CKA of two representations of the same samples. It is 1 for equal and for rotated
/// representations, about 0 for unrelated ones (the biased estimate only with many more samples
/// than features), and 0 if all samples are the same in one of them.
pub fn cka(a: &Gram, b: &Gram) -> Result<f64> {
    if a.rows.len() != b.rows.len() || a.estimator != b.estimator {
        bail!("CKA needs equally many samples, got {} and {}", a.rows.len(), b.rows.len());
    }
    if a.rows.are_equal() || b.rows.are_equal() {
        return Ok(0.0);
    }
    Ok(hsic(a, b) / ((a.own * b.own).max(0.0).sqrt() + EPS))
}

fn hsic(a: &Gram, b: &Gram) -> f64 {
    let cross = cross_square(a, b);
    if a.estimator == Estimator::Biased {
        return cross;
    }
    let m = a.rows.len() as f64;
    let both: f64 = a.squares.iter().zip(&b.squares).map(|(p, q)| p * q).sum();
    let sums = a.squares.iter().sum::<f64>() * b.squares.iter().sum::<f64>();
    (cross - both + sums / ((m - 1.0) * (m - 2.0)) - 2.0 * both / (m - 2.0)) / (m * (m - 3.0))
}

/// Sum of squares of A^T B.
fn cross_square(a: &Gram, b: &Gram) -> f64 {
    let (n, p, q) = (a.rows.len(), a.rows.dim(), b.rows.dim());
    let mut cross = Mat::<f64>::zeros(p, q);
    for first in (0..n).step_by(ROWS) {
        let count = ROWS.min(n - first);
        let (x, y) = (a.centred(first, count), b.centred(first, count));
        let (x, y) = (MatRef::from_row_major_slice(&x, count, p), MatRef::from_row_major_slice(&y, count, q));
        // Each block of columns is computed on one thread, so that sums do not depend on the number
        // of threads.
        let columns = cross.par_col_chunks_mut(COLUMNS).zip(y.par_col_chunks(COLUMNS));
        columns.for_each(|(out, part)| matmul(out, Accum::Add, x.transpose(), part, 1.0, Par::Seq));
    }
    cross.col_iter().map(|c| c.iter().map(|x| x * x).sum::<f64>()).sum()
}
