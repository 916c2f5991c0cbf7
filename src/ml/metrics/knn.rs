//! Weighted nearest-neighbour classification, the quickest test of a representation (Wu et al. 2018; the settings of
//! DINO, Caron et al. 2021): cosine similarity, k votes weighted by exp(similarity / 0.07).

use super::cknna::normalised;
use candle_core::{Result, Tensor, bail};
use std::cmp::Ordering;

/// Neighbours asked, as in DINO.
pub const K: usize = 20;
const TEMPERATURE: f64 = 0.07;

/// Share of `queries` (`[m, d]`) whose label the `k` nearest of `bank` (`[n, d]`) tell.
pub fn accuracy(bank: &Tensor, labels: &[i64], queries: &Tensor, truth: &[i64], k: usize) -> Result<f64> {
    let (n, m) = (bank.dim(0)?, queries.dim(0)?);
    if n == 0 || m == 0 || n != labels.len() || m != truth.len() {
        bail!("nearest neighbours of {m} queries ({} labels) among {n} samples ({} labels)", truth.len(), labels.len());
    }
    let (bank, queries) = (normalised(bank)?.t()?.contiguous()?, normalised(queries)?);
    let mut right = 0;
    for start in (0..m).step_by(512) {
        let rows = (m - start).min(512);
        let sims = queries.narrow(0, start, rows)?.matmul(&bank)?.to_vec2::<f32>()?;
        right += sims.iter().zip(&truth[start..]).filter(|(s, t)| vote(s, labels, k) == **t).count();
    }
    Ok(right as f64 / m as f64)
}

fn vote(similarities: &[f32], labels: &[i64], k: usize) -> i64 {
    let nearest = top_k(similarities, k);
    let mut votes = std::collections::BTreeMap::new();
    for i in nearest {
        // Relative to 1, the largest similarity, so that the exponential stays small.
        *votes.entry(labels[i as usize]).or_insert(0.0) +=
            ((f64::from(similarities[i as usize]) - 1.0) / TEMPERATURE).exp();
    }
    // Ties go to the smaller label.
    let best = votes.iter().max_by(|a, b| a.1.partial_cmp(b.1).unwrap_or(Ordering::Equal).then(b.0.cmp(a.0)));
    best.map_or(-1, |(label, _)| *label)
}

/// Positions of the `k` largest values; of equal values the first ones. In no particular order.
pub(super) fn top_k(values: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    if k < order.len() {
        order.select_nth_unstable_by(k, |a, b| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b)));
        order.truncate(k);
    }
    order
}
