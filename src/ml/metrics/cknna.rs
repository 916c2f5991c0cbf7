//! CKNNA: how well two representations agree on which samples are near each other (Huh et al. 2024,
//! "The Platonic Representation Hypothesis", appendix A; its `metrics.py`).
//!
//! A kernel alignment restricted to mutual nearest neighbours. With K and L the cosine similarities
//! of the two representations, and masks of k neighbours per row, it is `HSIC(K·(mK·mL), L·(mK·mL))
//! / sqrt(HSIC(K·mK, K·mK) HSIC(L·mL, L·mL))`. Each normaliser has its own mask: with the common
//! mask in all three, as in some scripts, unrelated representations score near 1. The masked
//! matrices are sparse (k per row) and never built, so memory is n k.

use super::nearest::Nearest;
use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

/// Added to the denominator, as in the original.
pub(super) const EPS: f64 = 1e-6;

/// Estimator of the Hilbert-Schmidt independence criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// Song et al. 2012, without the diagonals. A sample is not its own neighbour. The default of
    /// the original.
    Unbiased,
    /// `tr(K H L H)`. A sample may be its own neighbour, as in the original.
    Biased,
}

impl Estimator {
    /// The minimum number of samples: the unbiased estimator divides by n - 3.
    pub fn least(self) -> usize {
        match self {
            Self::Unbiased => 4,
            Self::Biased => 2,
        }
    }
}

/// The k nearest neighbours of every sample in one representation, with their similarities.
#[derive(Debug, Clone)]
pub struct Neighbours {
    k: usize,
    estimator: Estimator,
    /// Indices of the neighbours of sample i in `i*k..(i+1)*k`. Empty if all samples are the same.
    index: Vec<u32>,
    value: Vec<f64>,
    len: usize,
    /// HSIC with itself.
    own: f64,
}

impl Neighbours {
    /// From the `k` nearest other samples of every sample. If all samples are the same, there are
    /// no neighbours: such a representation has CKNNA 0 with any other and with itself.
    pub fn new(nearest: &[Nearest], k: usize, estimator: Estimator) -> Result<Self> {
        let n = nearest.len();
        if n < estimator.least() {
            bail!("CKNNA of {n} samples: needs {}", estimator.least());
        }
        let mut near = Self { k, estimator, index: vec![], value: vec![], len: n, own: 0.0 };
        for (i, row) in nearest.iter().enumerate() {
            let mut found = row.found.clone();
            if estimator == Estimator::Biased && !found.is_empty() {
                // Insert the sample itself where its similarity and index place it.
                let at = found.partition_point(|(v, j)| *v > row.own || (*v == row.own && (*j as usize) < i));
                found.insert(at, (row.own, i as u32));
                found.truncate(k);
            }
            found.sort_unstable_by_key(|(_, j)| *j);
            near.index.extend(found.iter().map(|(_, j)| *j));
            near.value.extend(found.iter().map(|(v, _)| f64::from(*v)));
        }
        near.own = hsic(&near, &near);
        Ok(near)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Neighbours of sample i by index, with their similarities.
    fn row(&self, i: usize) -> impl Iterator<Item = (u32, f64)> + '_ {
        let range = self.range(i);
        self.index[range.clone()].iter().copied().zip(self.value[range].iter().copied())
    }

    fn range(&self, i: usize) -> std::ops::Range<usize> {
        if self.index.is_empty() { 0..0 } else { i * self.k..(i + 1) * self.k }
    }

    /// The similarity of i and j if j is a neighbour of i.
    fn get(&self, i: usize, j: u32) -> Option<f64> {
        let range = self.range(i);
        self.index[range.clone()].binary_search(&j).ok().map(|at| self.value[range.start + at])
    }
}

/// CKNNA of two representations of the same samples: 1 for equal ones, about 0 for unrelated ones
/// (the unbiased estimate may be slightly negative). Because of the original's 1e-6 in the
/// denominator, equal representations score below 1 if neighbours are hardly similar: 10,000 normal
/// vectors of length 768 score 0.926 with themselves, in the original and here.
pub fn cknna(a: &Neighbours, b: &Neighbours) -> Result<f64> {
    if a.len() != b.len() || a.k != b.k || a.estimator != b.estimator {
        bail!(
            "CKNNA needs equally many samples and neighbours, got {} samples with {} neighbours and {} with {}",
            a.len(),
            a.k,
            b.len(),
            b.k
        );
    }
    Ok(hsic(a, b) / ((a.own * b.own).max(0.0).sqrt() + EPS))
}

/// HSIC of K and L, both masked by the common neighbours of `a` and `b`. The masked matrices are
/// not symmetric, so the transposition in the first term matters.
fn hsic(a: &Neighbours, b: &Neighbours) -> f64 {
    let n = a.len();
    let common = |i: usize| a.row(i).filter_map(move |(j, k)| b.get(i, j).map(|l| (j, k, l)));
    let (mut rows_a, mut cols_a, mut rows_b, mut cols_b) = (vec![0f64; n], vec![0f64; n], vec![0f64; n], vec![0f64; n]);
    let mut both = 0f64;
    for i in 0..n {
        for (j, k, l) in common(i) {
            rows_a[i] += k;
            cols_a[j as usize] += k;
            rows_b[i] += l;
            cols_b[j as usize] += l;
            // K_ij L_ji, if (j, i) is in the common mask, too.
            if let (Some(_), Some(back)) = (a.get(j as usize, i as u32), b.get(j as usize, i as u32)) {
                both += k * back;
            }
        }
    }
    let m = n as f64;
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let sums = rows_a.iter().sum::<f64>() * rows_b.iter().sum::<f64>();
    match a.estimator {
        Estimator::Unbiased => {
            let crossed = dot(&cols_a, &rows_b);
            (both + sums / ((m - 1.0) * (m - 2.0)) - 2.0 * crossed / (m - 2.0)) / (m * (m - 3.0))
        }
        // tr(KHLH) with H = 1 - J/n, expanded.
        Estimator::Biased => both - (dot(&cols_a, &rows_b) + dot(&cols_b, &rows_a)) / m + sums / (m * m),
    }
}
