//! Weighted nearest-neighbour classification, a quick test of a representation (Wu et al. 2018;
//! settings of DINO, Caron et al. 2021, `eval_knn.py`): cosine similarity, k votes weighted by
//! exp(similarity / 0.07).

use super::nearest::{Nearest, among};
use super::unit_rows::{Clamp, UnitRows};
use candle_core::{Result, Tensor, bail};
use std::cmp::Ordering;

/// Temperature of the weights, as in DINO.
pub const TEMPERATURE: f64 = 0.07;

/// Share of `queries` (`[m, d]`) whose label the `k` nearest of `bank` (`[n, d]`) predict.
pub fn accuracy(bank: &Tensor, labels: &[i64], queries: &Tensor, truth: &[i64], k: usize) -> Result<f64> {
    let (n, m) = (bank.dim(0)?, queries.dim(0)?);
    if n == 0 || m == 0 || n != labels.len() || m != truth.len() {
        bail!(
            "nearest neighbours need one label per sample: {m} queries have {} labels, {n} samples have {}",
            truth.len(),
            labels.len()
        );
    }
    let (bank, queries) = (UnitRows::of(bank, Clamp::NONE)?, UnitRows::of(queries, Clamp::NONE)?);
    let nearest = among(&bank, &queries, k)?;
    let right = nearest.iter().zip(truth).filter(|(near, truth)| vote(near, labels) == **truth).count();
    Ok(right as f64 / m as f64)
}

fn vote(nearest: &Nearest, labels: &[i64]) -> i64 {
    let mut votes = std::collections::BTreeMap::new();
    for (similarity, i) in &nearest.found {
        // Relative to 1, the largest similarity, so that the exponential stays small.
        *votes.entry(labels[*i as usize]).or_insert(0.0) += ((f64::from(*similarity) - 1.0) / TEMPERATURE).exp();
    }
    // Ties go to the smaller label.
    let best = votes.iter().max_by(|a, b| a.1.partial_cmp(b.1).unwrap_or(Ordering::Equal).then(b.0.cmp(a.0)));
    best.map_or(-1, |(label, _)| *label)
}
