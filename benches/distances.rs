//! Time and memory of computing metrics from features; benches/pytorch/distances.py does the same
//! with SciPy, PyTorch and torch-fidelity.
//!
//!     cargo bench --bench distances               # all
//!     cargo bench --bench distances -- frechet    # some
//!
//! Features are random, with the width of Inception's, 2048 (CMMD: of CLIP's, 768). Every case runs
//! in a process of its own. The operations counted are those of the products of all pairs or, for
//! the Fréchet distance, of a product, two factors and a reduction to two diagonals, in f64.

mod support;

use candle_core::{Device, Result, Tensor};
use erw::ml::metrics::cmmd::cmmd;
use erw::ml::metrics::frechet::between_gaussians;
use erw::ml::metrics::gaussian::Gaussian;
use erw::ml::metrics::kid::{Subsets, kid};
use erw::ml::metrics::precision_recall::{Distances, K, precision_recall};
use erw::ml::metrics::stats::Stats;
use erw::ml::rng::{Purpose, normal_rows};
use serde_json::Value;
use support::best;

const CASES: [&str; 6] = ["frechet", "covariance", "pr-half", "pr-single", "kid", "cmmd"];
const WIDE: usize = 2048;

fn main() {
    support::table(&CASES, "samples/s", measure);
}

fn measure(case: &str) -> Result<Value> {
    // Billions of operations of all products of two sets of so many features.
    let products = |a: usize, b: usize, dim: usize| 2e-9 * (a * b * dim) as f64;
    let (seconds, gflop) = match case {
        "frechet" => {
            let (a, b) = (gaussian(0)?, gaussian(1)?);
            (best(3, || between_gaussians(&a, &b).map(drop))?, (2.0 + 2.0 / 3.0 + 8.0 / 3.0) * 8.59)
        }
        "covariance" => {
            let x = features(0, 1024, WIDE)?;
            (best(3, || Stats::new(WIDE).push(&x))?, products(WIDE, WIDE, 1024) / 2.0)
        }
        "pr-half" | "pr-single" => {
            let (a, b) = (features(0, 10_000, WIDE)?, features(1, 4000, WIDE)?);
            let how = if case == "pr-half" { Distances::Half } else { Distances::Single };
            let gflop = products(10_000, 10_000, WIDE) / 2.0 + products(4000, 4000, WIDE) / 2.0;
            (best(1, || precision_recall(&a, &b, K, how).map(drop))?, gflop + products(10_000, 4000, WIDE))
        }
        "kid" => {
            let (a, b) = (features(0, 5000, WIDE)?, features(1, 5000, WIDE)?);
            let gflop = 100.0 * 2.0 * products(1000, 1000, WIDE);
            (best(1, || kid(&a, &b, &Subsets::TORCH_FIDELITY).map(drop))?, gflop)
        }
        _ => {
            let (a, b) = (features(0, 5000, 768)?, features(1, 5000, 768)?);
            (best(1, || cmmd(&a, &b).map(drop))?, 2.0 * products(5000, 5000, 768))
        }
    };
    support::rated(seconds, gflop, None)
}

/// Sizes of normal numbers: not negative, as what ends in a rectifier.
fn features(set: u64, n: usize, dim: usize) -> Result<Tensor> {
    normal_rows(set, Purpose::Probe, 0, &(0..n as u64).collect::<Vec<_>>(), &[dim], &Device::Cpu)?.abs()
}

fn gaussian(set: u64) -> Result<Gaussian> {
    let mut stats = Stats::new(WIDE);
    // More samples than dimensions, or only part of the work would be done.
    stats.push(&features(set, 3000, WIDE)?)?;
    stats.gaussian()
}
