//! Mutual nearest neighbours: the share of a sample's k nearest in one representation that are
//! among its k nearest in another, averaged over samples (Huh et al. 2024, `mutual_knn` in their
//! `metrics.py`).

use super::nearest::Nearest;
use candle_core::{Result, bail};

/// The k nearest other samples of every sample.
#[derive(Debug, Clone)]
pub struct Circles {
    k: usize,
    len: usize,
    /// Indices for sample i in `i*k..(i+1)*k`. Empty if all samples are the same.
    index: Vec<u32>,
}

impl Circles {
    /// From the `k` nearest other samples of every sample.
    pub fn new(nearest: &[Nearest], k: usize) -> Self {
        let mut index = vec![];
        for row in nearest {
            let start = index.len();
            index.extend(row.found.iter().map(|(_, j)| *j));
            index[start..].sort_unstable();
        }
        Self { k, len: nearest.len(), index }
    }
}

/// From 0 to 1: about k / n for unrelated representations, 0 if one has no neighbours because all
/// samples are the same.
pub fn mutual_knn(a: &Circles, b: &Circles) -> Result<f64> {
    if a.len != b.len || a.k != b.k {
        bail!(
            "mutual nearest neighbours need equally many samples and neighbours, \
             got {} samples with {} neighbours and {} with {}",
            a.len,
            a.k,
            b.len,
            b.k
        );
    }
    let shared = |(a, b): (&[u32], &[u32])| a.iter().filter(|j| b.binary_search(j).is_ok()).count();
    let total: usize = a.index.chunks(a.k).zip(b.index.chunks(b.k)).map(shared).sum();
    Ok(total as f64 / (a.len * a.k) as f64)
}
