//! Fréchet distance of two Gaussians (Dowson and Landau 1982); of Inception features it is the FID of Heusel et al.
//! (2017).
//!
//! The trace of sqrt(S1 S2) comes from two symmetric eigenproblems: with S1 = V diag(w) V^T, the eigenvalues of S1 S2
//! are those of diag(sqrt w) V^T S2 V diag(sqrt w), which are real and not negative. The general square root used
//! elsewhere turns complex when there are fewer samples than dimensions.

use super::gaussian::Gaussian;
use super::stats::Stats;
use candle_core::{Result, bail};
use faer::{Mat, MatRef, Par, Side, get_global_parallelism, set_global_parallelism};

/// |m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2).
pub fn frechet_distance(m1: &[f64], s1: MatRef<'_, f64>, m2: &[f64], s2: MatRef<'_, f64>) -> Result<f64> {
    let dim = m1.len();
    let shapes = [s1.nrows(), s1.ncols(), m2.len(), s2.nrows(), s2.ncols()];
    if shapes.iter().any(|d| *d != dim) {
        bail!("Fréchet distance of statistics of different dimensions: {dim} and {shapes:?}");
    }
    let between: f64 = m1.iter().zip(m2).map(|(a, b)| (a - b) * (a - b)).sum();
    let traces: f64 = (0..dim).map(|i| s1[(i, i)] + s2[(i, i)]).sum();
    let distance = between + traces - 2.0 * trace_sqrt_product(s1, s2)?;
    if !distance.is_finite() {
        bail!("the Fréchet distance is not finite: some feature is not");
    }
    Ok(distance)
}

/// The distance between two sets of samples.
pub fn between(a: &Stats, b: &Stats) -> Result<f64> {
    between_gaussians(&a.gaussian()?, &b.gaussian()?)
}

/// The distance between two normal distributions.
pub fn between_gaussians(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    frechet_distance(a.mean(), a.covariance().as_ref(), b.mean(), b.covariance().as_ref())
}

/// On one thread: with more, faer sums in another order, and the distance would depend on their number.
fn trace_sqrt_product(s1: MatRef<'_, f64>, s2: MatRef<'_, f64>) -> Result<f64> {
    let before = get_global_parallelism();
    set_global_parallelism(Par::Seq);
    let trace = trace_sqrt(s1, s2);
    set_global_parallelism(before);
    trace
}

fn trace_sqrt(s1: MatRef<'_, f64>, s2: MatRef<'_, f64>) -> Result<f64> {
    let Ok(eigen) = s1.self_adjoint_eigen(Side::Lower) else {
        bail!("the eigenvalues of a covariance do not converge")
    };
    let (w, v) = (eigen.S().column_vector(), eigen.U());
    // Eigenvalues that are zero come out as rounding noise of either sign.
    let half = Mat::from_fn(v.nrows(), v.ncols(), |i, j| v[(i, j)] * w[j].max(0.0).sqrt());
    let middle = half.transpose() * s2 * &half;
    match middle.self_adjoint_eigenvalues(Side::Lower) {
        Ok(values) => Ok(values.iter().map(|x| x.max(0.0).sqrt()).sum()),
        Err(_) => bail!("the eigenvalues of a product of covariances do not converge"),
    }
}
