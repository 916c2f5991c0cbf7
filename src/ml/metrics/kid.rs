//! KID, the kernel Inception distance (Bińkowski et al. 2018): the squared maximum mean discrepancy
//! of two sets of features under the kernel (x·y / d + 1)^3. The unbiased estimator has mean 0 for
//! two sets of one distribution, of any size, so it is sometimes negative.
//!
//! Tools report the mean over random subsets; the spread shows its uncertainty. Products are f32,
//! sums f64.

use super::pairs::{self, Rows, Vectors, same_dim};
use super::random_state::RandomState;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Which subsets are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subsets {
    /// Number of pairs of subsets.
    pub count: usize,
    /// Samples in each.
    pub size: usize,
    /// Seed of numpy's `RandomState`, which draws them.
    pub seed: u32,
}

impl Subsets {
    /// The largest number of subsets: of as many the mean no longer moves.
    pub const MOST: u32 = 100_000;
    /// The largest number of samples in each.
    pub const LARGEST: u32 = 1_000_000;
    /// The subsets of torch-fidelity: 100 of 1000 samples, seed 2020.
    pub const TORCH_FIDELITY: Self = Self { count: 100, size: 1000, seed: 2020 };
}

/// Pairs of subsets that are drawn at once, for all threads: however many there are, they fit in
/// memory.
const AT_ONCE: usize = 64;

/// KID over subsets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kid {
    pub mean: f64,
    /// Population standard deviation over the subsets.
    pub std: f64,
}

/// KID of `samples` and `reference`, `[n, d]` and `[m, d]`, as torch-fidelity's
/// `kid_features_to_metric`, which draws the subset of the samples first. The value depends on the
/// order of samples, because the order decides which are drawn.
pub fn kid(samples: &Tensor, reference: &Tensor, subsets: &Subsets) -> Result<Kid> {
    let (a, b) = (Rows::of(samples, "the samples")?, Rows::of(reference, "the reference")?);
    same_dim(a.dim(), b.dim(), "KID")?;
    let Subsets { count, size, seed } = *subsets;
    for (len, what) in [(a.len(), "samples"), (b.len(), "reference images")] {
        if len < size {
            bail!("KID over subsets of {size} needs at least {size} {what}, got {len}");
        }
    }
    if size < 2 || count == 0 {
        bail!("KID needs at least 1 subset of 2 samples, got {count} of {size}");
    }
    let mut random = RandomState::new(seed);
    let mut values: Vec<f64> = vec![];
    while values.len() < count {
        let next = (count - values.len()).min(AT_ONCE);
        let drawn: Vec<_> =
            (0..next).map(|_| (random.choice(a.len() as u32, size), random.choice(b.len() as u32, size))).collect();
        values.par_extend(drawn.par_iter().map(|(i, j)| unbiased(&a.select(i), &b.select(j))));
    }
    let mean = values.iter().sum::<f64>() / count as f64;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count as f64;
    Ok(Kid { mean, std: variance.sqrt() })
}

fn unbiased(a: &Vectors, b: &Vectors) -> f64 {
    let scale = 1.0 / a.dim() as f64;
    let kernel = |_, _, product: f32| {
        let x = f64::from(product) * scale + 1.0;
        x * x * x
    };
    let within = |v: &Vectors| pairs::sum_of_others(v, kernel) / (v.len() as f64 * (v.len() - 1) as f64);
    within(a) + within(b) - 2.0 * pairs::sum(a, b, kernel) / (a.len() as f64 * b.len() as f64)
}
