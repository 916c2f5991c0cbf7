//! Improved precision and recall (Kynkäänniemi et al. 2019), and density and coverage (Naeem et al. 2020): a set of
//! images is taken for the union of balls around its features, each as wide as the k-th nearest neighbour of its centre
//! is far. Precision is the share of samples inside the balls of the reference, recall that of the reference inside the
//! balls of the samples.
//!
//! Which number comes out depends on how distances are rounded, hence [`Distances`]. All pairs are looked at tile by
//! tile, those within one set once; memory is that of the features.

use super::half::{self, to_half};
use super::pairs::{self, TILE, Tile, Vectors, same_dim};
use candle_core::{Result, Tensor, bail};
use std::sync::{Mutex, PoisonError};

/// Neighbours in all published numbers; the sample itself does not count.
pub const K: usize = 3;

/// How two features are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distances {
    /// As the evaluator of the ADM suite: squared distances in half precision, or in single precision where one of them
    /// is not finite. Features of about 400 in squared length are then told apart in steps of 1/4, so many distances are
    /// equal. Norms are summed as TensorFlow does on a CPU. The evaluator falls back for each block of 10,000 by
    /// 10,000, we for all at once; Inception's features never do.
    Half,
    /// As torch-fidelity: in single precision. Its sums differ from ours in the last bits.
    Single,
}

/// Shares, each from 0 to 1 but for the density.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    pub precision: f64,
    pub recall: f64,
    /// Balls of the reference that a sample is inside of, on average, over k; 1 for two sets of one distribution.
    /// Being on the surface does not count, as in the authors' code.
    pub density: f64,
    /// Share of the reference's balls with a sample inside.
    pub coverage: f64,
}

/// Of `samples` `[n, d]` held against `reference` `[m, d]`, with the balls reaching to the `k`-th neighbour.
/// Does not depend on the order of samples.
///
/// Errors: not more samples than `k` in a set, dimensions that differ, a feature that is not finite (by sample).
pub fn precision_recall(
    samples: &Tensor,
    reference: &Tensor,
    k: usize,
    distances: Distances,
) -> Result<PrecisionRecall> {
    let (samples, reference) = (Vectors::of(samples, "the samples")?, Vectors::of(reference, "the reference")?);
    same_dim(samples.dim(), reference.dim(), "precision and recall")?;
    for (set, what) in [(&samples, "samples"), (&reference, "reference images")] {
        if k == 0 || set.len() <= k {
            bail!("precision and recall to neighbour {k} of {} {what}: needs more of them, and a neighbour", set.len());
        }
    }
    if distances == Distances::Half {
        let rounded = [&samples, &reference].map(|v| v.clone().map(to_half));
        let [s, r] = rounded.map(|v| FeatureSet { norms: half::squared_norms(&v), vectors: v, rounds: true });
        if is_finite(&r, &s) {
            return Ok(compare(&s, &r, k));
        }
    }
    let [s, r] = [samples, reference].map(|v| FeatureSet { norms: v.squared_norms(), vectors: v, rounds: false });
    Ok(compare(&s, &r, k))
}

/// Feature vectors with what distances between them need.
struct FeatureSet {
    vectors: Vectors,
    /// Squared lengths.
    norms: Vec<f32>,
    /// Whether distances are in half precision.
    rounds: bool,
}

impl FeatureSet {
    /// Squared distances of `self[i]` to each of `others[column..]` from their inner products.
    fn distances(&self, i: usize, others: &FeatureSet, column: usize, products: &[f32], out: &mut [f32]) {
        let norms = &others.norms[column..column + products.len()];
        let out = &mut out[..products.len()];
        if self.rounds {
            half::distances(self.norms[i], norms, products, out);
        } else {
            distances(self.norms[i], norms, products, out);
        }
    }

    /// The same towards `self[i]`: half precision rounds in the order of the operands.
    fn distances_from(&self, i: usize, others: &FeatureSet, column: usize, products: &[f32], out: &mut [f32]) {
        let norms = &others.norms[column..column + products.len()];
        let out = &mut out[..products.len()];
        if self.rounds {
            half::distances_from(self.norms[i], norms, products, out);
        } else {
            distances(self.norms[i], norms, products, out);
        }
    }
}

/// The sum of the norms comes first, so that equal vectors are at distance 0 and a pair's order does not matter.
fn distances(norm: f32, norms: &[f32], products: &[f32], out: &mut [f32]) {
    for ((out, n), p) in out.iter_mut().zip(norms).zip(products) {
        *out = ((norm + n) - 2.0 * p).max(0.0);
    }
}

/// Whether half precision holds every distance, after what is negative, and be it infinite, has become 0. Norms up to a quarter of its range settle that for all pairs.
fn is_finite(a: &FeatureSet, b: &FeatureSet) -> bool {
    let largest = a.norms.iter().chain(&b.norms).fold(0f32, |m, n| m.max(*n));
    largest < half::LARGEST / 4.0 || {
        let finite = |x: &FeatureSet, y: &FeatureSet, t: &Tile| {
            let mut d = [0f32; TILE];
            (0..t.rows).all(|i| {
                x.distances(t.row + i, y, t.column, t.products(i), &mut d);
                d[..t.columns].iter().all(|d| d.is_finite())
            })
        };
        let all = |x: &FeatureSet, y: &FeatureSet| {
            pairs::all(&x.vectors, &y.vectors, |t| finite(x, y, t)).into_iter().all(|f| f)
        };
        all(a, a) && all(b, b) && all(a, b)
    }
}

/// How far the `k`-th neighbour of each vector is, squared.
fn radii(set: &FeatureSet, k: usize) -> Vec<f32> {
    // A vector is its own nearest neighbour, at distance 0.
    let nearest: Vec<_> = (0..set.vectors.len().div_ceil(TILE)).map(|_| Mutex::new(Nearest::new(k + 1))).collect();
    // Of all distances the k + 1 smallest are kept, so the order in which tiles come does not matter.
    let note = |t: &Tile| {
        let mut rows = Nearest::new(k + 1);
        let mut columns = Nearest::new(k + 1);
        let mut d = [0f32; TILE];
        for i in 0..t.rows {
            set.distances(t.row + i, set, t.column, t.products(i), &mut d);
            rows.note_row(i, &d[..t.columns]);
            if !t.is_diagonal() {
                set.distances_from(t.row + i, set, t.column, t.products(i), &mut d);
                columns.note_column(&d[..t.columns]);
            }
        }
        for (place, found) in [(t.row, rows), (t.column, columns)] {
            nearest[place / TILE].lock().unwrap_or_else(PoisonError::into_inner).merge(&found);
        }
    };
    pairs::upper(&set.vectors, note);
    let far = nearest.into_iter().flat_map(|n| n.into_inner().unwrap_or_else(PoisonError::into_inner).furthest());
    far.take(set.vectors.len()).collect()
}

/// The smallest distances seen for each vector of one panel, ascending.
struct Nearest {
    kept: usize,
    values: Vec<f32>,
}

impl Nearest {
    fn new(kept: usize) -> Self {
        Self { kept, values: vec![f32::INFINITY; TILE * kept] }
    }

    fn note(&mut self, i: usize, distance: f32) {
        let values = &mut self.values[i * self.kept..(i + 1) * self.kept];
        let mut place = self.kept - 1;
        if distance >= values[place] {
            return;
        }
        while place > 0 && values[place - 1] > distance {
            values[place] = values[place - 1];
            place -= 1;
        }
        values[place] = distance;
    }

    /// Distances from vector `i`.
    fn note_row(&mut self, i: usize, distances: &[f32]) {
        for d in distances {
            self.note(i, *d);
        }
    }

    /// One distance from each vector.
    fn note_column(&mut self, distances: &[f32]) {
        for (i, d) in distances.iter().enumerate() {
            self.note(i, *d);
        }
    }

    fn merge(&mut self, other: &Self) {
        for (i, d) in other.values.iter().enumerate() {
            self.note(i / self.kept, *d);
        }
    }

    fn furthest(self) -> Vec<f32> {
        self.values.chunks(self.kept).map(|v| v[self.kept - 1]).collect()
    }
}

/// What one tile of reference (rows) by samples (columns) says.
struct TileCounts {
    row: usize,
    column: usize,
    /// Whether a reference image is in the ball of a sample, and whether it has a sample in its own ball.
    recalled: Vec<bool>,
    covered: Vec<bool>,
    /// Whether a sample is in the ball of a reference image.
    precise: Vec<bool>,
    /// Pairs of a ball of the reference and a sample inside.
    inside: u64,
}

fn compare(samples: &FeatureSet, reference: &FeatureSet, k: usize) -> PrecisionRecall {
    let (of_samples, of_reference) = (radii(samples, k), radii(reference, k));
    let tiles = pairs::all(&reference.vectors, &samples.vectors, |t| {
        let mut found = TileCounts {
            row: t.row,
            column: t.column,
            recalled: vec![false; t.rows],
            covered: vec![false; t.rows],
            precise: vec![false; t.columns],
            inside: 0,
        };
        let mut d = [0f32; TILE];
        for i in 0..t.rows {
            reference.distances(t.row + i, samples, t.column, t.products(i), &mut d);
            let radii = &of_samples[t.column..t.column + t.columns];
            found.note(i, of_reference[t.row + i], radii, &d[..t.columns]);
        }
        found
    });
    let (n, m) = (samples.vectors.len(), reference.vectors.len());
    let (mut precise, mut recalled, mut covered) = (vec![false; n], vec![false; m], vec![false; m]);
    let mut inside = 0u64;
    for found in tiles {
        merge(&mut precise[found.column..], &found.precise);
        merge(&mut recalled[found.row..], &found.recalled);
        merge(&mut covered[found.row..], &found.covered);
        inside += found.inside;
    }
    PrecisionRecall {
        precision: share(&precise),
        recall: share(&recalled),
        density: inside as f64 / (k as f64 * n as f64),
        coverage: share(&covered),
    }
}

impl TileCounts {
    fn note(&mut self, i: usize, radius: f32, radii: &[f32], distances: &[f32]) {
        let (mut recalled, mut inside) = (false, 0);
        for ((d, sample), precise) in distances.iter().zip(radii).zip(&mut self.precise) {
            recalled |= d <= sample;
            *precise |= *d <= radius;
            inside += u32::from(*d < radius);
        }
        self.recalled[i] = recalled;
        self.covered[i] = inside > 0;
        self.inside += u64::from(inside);
    }
}

fn merge(all: &mut [bool], part: &[bool]) {
    all.iter_mut().zip(part).for_each(|(a, b)| *a |= b);
}

fn share(hits: &[bool]) -> f64 {
    hits.iter().filter(|hit| **hit).count() as f64 / hits.len() as f64
}
