//! Time and memory of comparing two representations of 10,000 images; benches/pytorch/cknna.py does
//! the same in PyTorch.
//!
//!     cargo bench --bench cknna                # all
//!     cargo bench --bench cknna -- cknna       # some
//!
//! Features are random, `[10000, 768]` f32 each, unclamped; the peak memory includes them. The rate
//! counts a product of all pairs of samples for each representation, although the program computes
//! only half of it.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use candle_core::{Device, Result, Tensor};
use erw::ml::metrics::alignment::{AlignmentMetric, Protocol, alignment};
use erw::ml::metrics::cknna::Estimator;
use erw::ml::metrics::unit_rows::Clamp;
use erw::ml::rng::{Purpose, normal_rows};
use serde_json::Value;
use support::best;

const SAMPLES: usize = 10_000;
const DIM: usize = 768;

fn main() {
    support::table(&AlignmentMetric::ALL.map(AlignmentMetric::name), "images/s", measure);
}

fn measure(case: &str) -> Result<Value> {
    let measure = AlignmentMetric::ALL.into_iter().find(|m| m.name() == case).unwrap();
    let protocol = Protocol { measures: vec![measure], k: 10, clamp: Clamp::NONE, estimator: Estimator::Unbiased };
    let (a, b) = (features(1)?, features(2)?);
    let seconds = best(3, || alignment(&a, &b, &protocol).map(drop))?;
    let products = match measure {
        // Both Gram matrices.
        AlignmentMetric::Cknna | AlignmentMetric::MutualKnn => 2.0 * (SAMPLES * SAMPLES * DIM) as f64,
        // A^T A, B^T B and A^T B.
        AlignmentMetric::Cka => 3.0 * (SAMPLES * DIM * DIM) as f64,
    };
    support::rated(seconds, 2.0 * products / 1e9, Some(SAMPLES as f64 / seconds))
}

fn features(seed: u64) -> Result<Tensor> {
    let rows = |ids: &[u64]| normal_rows(seed, Purpose::Probe, 0, ids, &[DIM], &Device::Cpu);
    let ids: Vec<u64> = (0..SAMPLES as u64).collect();
    // In parts, so that drawing them takes no more memory than they do.
    let mut all = Vec::with_capacity(SAMPLES * DIM);
    for ids in ids.chunks(500) {
        all.extend(rows(ids)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Tensor::from_vec(all, (SAMPLES, DIM), &Device::Cpu)
}
