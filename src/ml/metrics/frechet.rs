//! Fréchet distance of two Gaussians (Dowson and Landau 1982). With Inception features it is the
//! FID of Heusel et al. (2017).
//!
//! The trace of sqrt(S1 S2) is the sum of the singular values of L1^T L2 for any factors S = L L^T,
//! because the eigenvalues of S1 S2 = L1 L1^T L2 L2^T are those of (L1^T L2)(L1^T L2)^T. The
//! factors come from pivoted Cholesky decompositions, which stop at the rank, so fewer samples than
//! dimensions take less time and lose no precision. Singular values are accurate to the rounding of
//! the largest. Eigenvalues of a product, whose roots are taken, keep only half of the digits for a
//! covariance without full rank (measured at 2048 dimensions with rank 682 and 1024, relative to
//! the traces: 2e-17 here, 1e-9 with two eigenproblems). The general matrix square root used
//! elsewhere becomes complex there.

use super::gaussian::Gaussian;
use super::stats::Stats;
use candle_core::{Result, bail};
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt_pivoting::factor as pivoted;
use faer::linalg::matmul::matmul;
use faer::linalg::svd::{self, ComputeSvdVectors};
use faer::{Accum, Mat, MatRef, Par};

/// `|m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2)`, for covariances `[d, d]` without negative
/// variances.
///
/// Never negative: results below 0 come from rounding (about 1e-15 of the traces) and are set to 0.
/// The bits do not depend on the number of threads. In singular covariances, variances below 1e-13
/// of the largest count as zero.
pub fn frechet_distance(m1: &[f64], s1: MatRef<'_, f64>, m2: &[f64], s2: MatRef<'_, f64>) -> Result<f64> {
    let dim = m1.len();
    let shapes = [s1.nrows(), s1.ncols(), m2.len(), s2.nrows(), s2.ncols()];
    if shapes.iter().any(|d| *d != dim) {
        bail!("the Fréchet distance needs statistics of one dimension, got {dim} and {shapes:?}");
    }
    let between: f64 = m1.iter().zip(m2).map(|(a, b)| (a - b) * (a - b)).sum();
    let traces: f64 = (0..dim).map(|i| s1[(i, i)] + s2[(i, i)]).sum();
    let distance = between + traces - 2.0 * trace_sqrt_product(s1, s2)?;
    if !distance.is_finite() {
        bail!("the Fréchet distance is not finite, because some feature is not");
    }
    Ok(distance.max(0.0))
}

/// The distance between two sets of samples.
pub fn between(a: &Stats, b: &Stats) -> Result<f64> {
    between_gaussians(&a.gaussian()?, &b.gaussian()?)
}

/// The distance between two normal distributions.
pub fn between_gaussians(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    frechet_distance(a.mean(), a.covariance().as_ref(), b.mean(), b.covariance().as_ref())
}

/// The number of parts into which faer splits its work, whatever the number of threads: the parts
/// decide the order of sums, and so the last bits. Further threads would find nothing to do; the
/// reduction to bidiagonal form is limited by memory anyway (2048 x 2048 on two cores: 1.5 s in one
/// part, 1.1 s in two to eight).
const PARTS: usize = 8;

/// Tolerance for negative variances relative to the largest: published files hold f32 sums, whose
/// eigenvalues can be slightly below 0.
const ROUNDING: f64 = 1e-3;

fn trace_sqrt_product(s1: MatRef<'_, f64>, s2: MatRef<'_, f64>) -> Result<f64> {
    let (l1, l2) = rayon::join(|| factor(s1, "first"), || factor(s2, "second"));
    let (l1, l2) = (l1?, l2?);
    let mut product = Mat::zeros(l1.ncols(), l2.ncols());
    matmul(product.as_mut(), Accum::Replace, l1.transpose(), l2.as_ref(), 1.0, Par::rayon(PARTS));
    sum_of_singular_values(product.as_ref())
}

/// L `[d, rank]` with L L^T = S, the covariance of the set `which`. Mirrored entries of S are
/// averaged, because published files hold f32 sums.
fn factor(s: MatRef<'_, f64>, which: &str) -> Result<Mat<f64>> {
    let n = s.nrows();
    // The factorisation divides by the first pivot without a check.
    if (0..n).all(|i| s[(i, i)] == 0.0) {
        return Ok(Mat::zeros(n, 0));
    }
    let mut lower = Mat::from_fn(n, n, |i, j| 0.5 * (s[(i, j)] + s[(j, i)]));
    let (mut order, mut inverse) = (vec![0usize; n], vec![0usize; n]);
    let params = Default::default();
    let mut memory = MemBuffer::new(pivoted::cholesky_in_place_scratch::<usize, f64>(n, Par::Seq, params));
    let stack = MemStack::new(&mut memory);
    let done = pivoted::cholesky_in_place(lower.as_mut(), &mut order, &mut inverse, Par::Seq, stack, params);
    let Ok((info, _)) = done else {
        bail!("the covariance of the {which} set has a negative variance or one that is not finite")
    };
    let mut factor = Mat::zeros(n, info.rank);
    for j in 0..info.rank {
        (j..n).for_each(|i| factor[(order[i], j)] = lower[(i, j)]);
    }
    check_rest(s, factor.as_ref(), which)?;
    Ok(factor)
}

/// Refuses a matrix with negative eigenvalues, which is not a covariance: the factorisation stops
/// when no positive pivot is left and would ignore the rest. For a covariance only rounding errors
/// are left.
fn check_rest(s: MatRef<'_, f64>, factor: MatRef<'_, f64>, which: &str) -> Result<()> {
    let n = s.nrows();
    let largest = (0..n).fold(0f64, |m, i| m.max(s[(i, i)]));
    let mut rest: Vec<f64> = (0..n).map(|i| s[(i, i)]).collect();
    for column in factor.col_iter() {
        rest.iter_mut().zip(column.iter()).for_each(|(rest, x)| *rest -= x * x);
    }
    match rest.iter().any(|rest| *rest < -ROUNDING * largest) {
        true => bail!("the covariance of the {which} set has negative eigenvalues, so it is not a covariance"),
        false => Ok(()),
    }
}

fn sum_of_singular_values(m: MatRef<'_, f64>) -> Result<f64> {
    let (rows, columns) = m.shape();
    let mut values = Diag::<f64>::zeros(rows.min(columns));
    let (none, parts, params) = (ComputeSvdVectors::No, Par::rayon(PARTS), Default::default());
    let mut memory = MemBuffer::new(svd::svd_scratch::<f64>(rows, columns, none, none, parts, params));
    let stack = MemStack::new(&mut memory);
    match svd::svd(m, values.as_mut(), None, None, parts, stack, params) {
        Ok(()) => Ok(values.column_vector().iter().sum()),
        Err(_) => bail!("the singular values of a product of covariances do not converge"),
    }
}
