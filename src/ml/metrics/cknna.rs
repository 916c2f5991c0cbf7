//! CKNNA: how far two representations agree about which samples are near each other (Huh et al. 2024, "The Platonic
//! Representation Hypothesis", appendix A; its `metrics.py`).
//!
//! A kernel alignment restricted to mutual nearest neighbours: with K and L the cosine similarities of the two
//! representations and masks of k neighbours per row,
//! `HSIC(K·(mK·mL), L·(mK·mL)) / sqrt(HSIC(K·mK, K·mK) HSIC(L·mL, L·mL))`.
//! Each normaliser has its own mask: with the common mask in all three, as some scripts have it, unrelated
//! representations score near 1. Masked matrices are sparse (k per row) and never built, so memory is n k.

use super::knn::top_k;
use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

/// Added to the denominator, as in the original.
const EPS: f64 = 1e-6;
/// Rows of similarities at a time.
const BLOCK: usize = 512;

/// The k nearest neighbours of every sample in one representation, with their similarities.
#[derive(Debug, Clone)]
pub struct Neighbours {
    k: usize,
    /// Neighbours of sample i in `i*k..(i+1)*k`, by index.
    index: Vec<u32>,
    value: Vec<f64>,
}

impl Neighbours {
    /// Of `features`, `[n, d]`, by cosine similarity, a sample not counting as its own neighbour.
    pub fn of(features: &Tensor, k: usize) -> Result<Self> {
        let n = features.dim(0)?;
        // The unbiased estimator divides by n - 3.
        if n < 4 || k == 0 || k >= n {
            bail!("CKNNA of {n} samples with {k} neighbours: needs 4 samples, and more samples than neighbours");
        }
        let features = normalised(features)?;
        let all = features.t()?.contiguous()?;
        let (mut index, mut value) = (Vec::with_capacity(n * k), Vec::with_capacity(n * k));
        for start in (0..n).step_by(BLOCK) {
            let rows = features.narrow(0, start, BLOCK.min(n - start))?.matmul(&all)?.to_vec2::<f32>()?;
            let nearest: Vec<Vec<(u32, f64)>> =
                rows.into_par_iter().enumerate().map(|(r, row)| neighbours_of(start + r, row, k)).collect();
            for (i, v) in nearest.into_iter().flatten() {
                index.push(i);
                value.push(v);
            }
        }
        if value.iter().any(|v| !v.is_finite()) {
            bail!("CKNNA of features that are not finite");
        }
        Ok(Self { k, index, value })
    }

    pub fn len(&self) -> usize {
        self.index.len() / self.k
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn row(&self, i: usize) -> impl Iterator<Item = (u32, f64)> + '_ {
        let range = i * self.k..(i + 1) * self.k;
        self.index[range.clone()].iter().copied().zip(self.value[range].iter().copied())
    }

    /// The similarity of i to j if j is a neighbour of i.
    fn get(&self, i: usize, j: u32) -> Option<f64> {
        let range = i * self.k..(i + 1) * self.k;
        self.index[range.clone()].binary_search(&j).ok().map(|at| self.value[range.start + at])
    }
}

fn neighbours_of(me: usize, mut row: Vec<f32>, k: usize) -> Vec<(u32, f64)> {
    row[me] = f32::NEG_INFINITY;
    let mut nearest = top_k(&row, k);
    nearest.sort_unstable();
    nearest.into_iter().map(|j| (j, f64::from(row[j as usize]))).collect()
}

/// CKNNA of two representations of the same samples, by the unbiased estimator. 1 for equal ones, about 0 for
/// unrelated ones (it may be slightly negative).
pub fn cknna(a: &Neighbours, b: &Neighbours) -> Result<f64> {
    if a.len() != b.len() || a.k != b.k {
        bail!("CKNNA of {} samples with {} neighbours and {} with {}", a.len(), a.k, b.len(), b.k);
    }
    let joint = hsic(a, b);
    let own = hsic(a, a) * hsic(b, b);
    Ok(joint / (own.max(0.0).sqrt() + EPS))
}

/// Unbiased HSIC (Song et al. 2012) of K and L, both masked by the common neighbours of `a` and `b`.
/// The masked matrices are not symmetric, so the transposition in the first term matters.
fn hsic(a: &Neighbours, b: &Neighbours) -> f64 {
    let n = a.len();
    let common = |i: usize| a.row(i).filter_map(move |(j, k)| b.get(i, j).map(|l| (j, k, l)));
    let (mut cols_a, mut rows_b) = (vec![0f64; n], vec![0f64; n]);
    let (mut sum_a, mut sum_b, mut both) = (0f64, 0f64, 0f64);
    for (i, row_b) in rows_b.iter_mut().enumerate() {
        for (j, k, l) in common(i) {
            cols_a[j as usize] += k;
            *row_b += l;
            sum_a += k;
            sum_b += l;
            // K_ij L_ji, where (j, i) is in the common mask too.
            if let (Some(_), Some(back)) = (a.get(j as usize, i as u32), b.get(j as usize, i as u32)) {
                both += k * back;
            }
        }
    }
    let m = n as f64;
    let crossed: f64 = cols_a.iter().zip(&rows_b).map(|(c, r)| c * r).sum();
    (both + sum_a * sum_b / ((m - 1.0) * (m - 2.0)) - 2.0 * crossed / (m - 2.0)) / (m * (m - 3.0))
}

/// Rows scaled to length 1, f32. A row of zeros stays.
pub fn normalised(features: &Tensor) -> Result<Tensor> {
    let x = features.to_dtype(DType::F32)?;
    let norm = x.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12f32)?;
    x.broadcast_div(&norm)
}

/// Clamps features to the `q` quantile of their absolute values, as the original does (q = 0.95) before normalising:
/// a few large activations would otherwise decide every similarity. `q = 1` changes nothing.
pub fn clamp_outliers(features: &Tensor, q: f64) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&q) {
        bail!("quantile {q} is not between 0 and 1");
    }
    let mut all = features.to_dtype(DType::F32)?.abs()?.flatten_all()?.to_vec1::<f32>()?;
    let at = (q * all.len() as f64) as usize;
    if at >= all.len() {
        return features.to_dtype(DType::F32);
    }
    let (_, limit, _) = all.select_nth_unstable_by(at, f32::total_cmp);
    features.to_dtype(DType::F32)?.clamp(-*limit, *limit)
}
