//! Improved precision and recall (Kynkäänniemi et al. 2019), and density and coverage (Naeem et al.
//! 2020). A set of images is modelled by the union of balls around its features, each with the
//! distance of the k-th nearest neighbour as radius. Precision is the share of samples inside the
//! balls of the reference; recall is the share of the reference inside the balls of the samples.
//!
//! The values depend on how distances are rounded, hence [`Distances`]. All pairs are processed
//! tile by tile, those within one set once. Memory is that of the features.

use super::half_distances::{self, to_half};
use super::pairs::{self, TILE, Tile, Vectors, same_dim};
use candle_core::{Result, Tensor, bail};
use std::sync::{Mutex, PoisonError};

/// The number of neighbours in published values. A sample is not its own neighbour.
pub const K: usize = 3;

/// How distances are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distances {
    /// As in the evaluator of the ADM suite: squared distances in half precision, or in single
    /// precision if one of them is not finite. Features with a squared length of about 400 are then
    /// resolved in steps of 1/4, so many distances are equal. Norms are summed as TensorFlow does
    /// on a CPU. The evaluator falls back separately for each block of 10,000 by 10,000; here all
    /// fall back together. With Inception's features neither happens.
    Half,
    /// As in torch-fidelity: single precision. Its sums differ in the last bits.
    Single,
}

/// Shares from 0 to 1, except for the density.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    pub precision: f64,
    pub recall: f64,
    /// Mean number of reference balls that a sample lies in, divided by k; 1 for two sets of one
    /// distribution. A sample on the surface does not count, as in the authors' code.
    pub density: f64,
    /// Share of the reference's balls that contain a sample.
    pub coverage: f64,
}

/// Compares `samples` `[n, d]` with `reference` `[m, d]`. Balls extend to the `k`-th neighbour. The
/// result does not depend on the order of samples.
///
/// # Errors
/// A set with no more than `k` samples, different dimensions, or a feature that is not finite (the
/// error names the sample).
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
            bail!("precision and recall need k >= 1 and more than k {what}, got k = {k} and {}", set.len());
        }
    }
    if distances == Distances::Half {
        let rounded = [&samples, &reference].map(|v| v.clone().map(to_half));
        let [s, r] = rounded.map(|v| FeatureSet { norms: half_distances::squared_norms(&v), vectors: v, rounds: true });
        if is_finite(&r, &s) {
            return Ok(compare(&s, &r, k));
        }
    }
    let [s, r] = [samples, reference].map(|v| FeatureSet { norms: v.squared_norms(), vectors: v, rounds: false });
    Ok(compare(&s, &r, k))
}

/// Feature vectors, with data for distances.
struct FeatureSet {
    vectors: Vectors,
    /// Squared lengths.
    norms: Vec<f32>,
    /// Whether distances are in half precision.
    rounds: bool,
}

impl FeatureSet {
    /// Squared distances of `self[i]` to each of `others[column..]`, from their inner products.
    fn distances(&self, i: usize, others: &FeatureSet, column: usize, products: &[f32], out: &mut [f32]) {
        let norms = &others.norms[column..column + products.len()];
        let out = &mut out[..products.len()];
        if self.rounds {
            half_distances::distances(self.norms[i], norms, products, out);
        } else {
            distances(self.norms[i], norms, products, out);
        }
    }

    /// The same in the other direction: half precision rounds in the order of the operands.
    fn distances_from(&self, i: usize, others: &FeatureSet, column: usize, products: &[f32], out: &mut [f32]) {
        let norms = &others.norms[column..column + products.len()];
        let out = &mut out[..products.len()];
        if self.rounds {
            half_distances::distances_from(self.norms[i], norms, products, out);
        } else {
            distances(self.norms[i], norms, products, out);
        }
    }
}

/// The norms are added first, so that equal vectors have distance 0 and the order of a pair does
/// not matter.
fn distances(norm: f32, norms: &[f32], products: &[f32], out: &mut [f32]) {
    for ((out, n), p) in out.iter_mut().zip(norms).zip(products) {
        *out = ((norm + n) - 2.0 * p).max(0.0);
    }
}

/// Whether all distances are finite in half precision, after negative ones (even minus infinity)
/// have become 0. Norms up to a quarter of its range guarantee it for all pairs.
fn is_finite(a: &FeatureSet, b: &FeatureSet) -> bool {
    let largest = a.norms.iter().chain(&b.norms).fold(0f32, |m, n| m.max(*n));
    largest < half_distances::LARGEST / 4.0 || {
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

/// Squared distance to the `k`-th neighbour of each vector.
fn radii(set: &FeatureSet, k: usize) -> Vec<f32> {
    // A vector is its own nearest neighbour, at distance 0.
    let nearest: Vec<_> = (0..set.vectors.len().div_ceil(TILE)).map(|_| Mutex::new(Nearest::new(k + 1))).collect();
    // The k + 1 smallest distances are kept, so the order of tiles does not matter.
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

/// The smallest distances so far for each vector of one panel, ascending.
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

    /// Adds distances from vector `i`.
    fn note_row(&mut self, i: usize, distances: &[f32]) {
        for d in distances {
            self.note(i, *d);
        }
    }

    /// Adds one distance from each vector.
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

/// The counts from one tile of reference (rows) by samples (columns).
struct TileCounts {
    row: usize,
    column: usize,
    /// Whether a reference image lies in the ball of a sample, and whether its own ball contains a
    /// sample.
    recalled: Vec<bool>,
    covered: Vec<bool>,
    /// Whether a sample lies in the ball of a reference image.
    precise: Vec<bool>,
    /// Number of pairs of a reference ball and a sample inside.
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
