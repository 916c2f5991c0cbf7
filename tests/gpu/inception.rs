//! Inception as commands of the emulated card, against candle's operations on the CPU.

use super::networks::{Counting, distance, normal};
use super::support::card;
use crate::ml::inception::recipe;
use candle_core::Device;
use erw::ml::gpu::inception::plan;
use erw::ml::models::feature_network::mode::Mode;
use erw::ml::models::inception::{Inception, SIDE};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The smallest image that leaves a pixel at the end.
const SMALL: usize = 75;

#[test]
fn features_equal_those_of_the_cpu() {
    let inception = Inception::from_tensors(Mode::Adm, recipe().clone(), &Device::Cpu).unwrap();
    let images = normal(1, &[2, 3, SMALL, SMALL]);
    let want = inception.forward(&images).unwrap();
    // An image at a time.
    let plan = plan(&inception, SMALL, 1);
    let card = Counting::new(card());
    let taken = card.counter();
    let on_gpu = plan.on(Arc::new(card)).unwrap();
    assert_eq!(taken.load(Relaxed), plan.memory().unwrap());
    drop(plan);
    let got = inception.computed_by(on_gpu.elsewhere()).forward(&images).unwrap();
    for (what, got, want) in [
        ("spatial", got.spatial.unwrap(), want.spatial.unwrap()),
        ("pool", got.pool, want.pool),
        ("logits", got.logits.unwrap(), want.logits.unwrap()),
    ] {
        let off = distance(&got, &want);
        assert!(off < 2e-5, "{what}: {off:e}");
    }
}

#[test]
fn memory_for_images_of_its_size() {
    let (inception, _) = erw::ml::nn::params::census(|vb| Inception::new(Mode::Adm, vb)).unwrap();
    let bytes = plan(&inception, SIDE, 64).memory().unwrap();
    // Weights, 95 MB; three maps of 147 x 147 x 64 numbers.
    assert!(bytes < 95_000_000 + 3 * 64 * 147 * 147 * 64 * 4, "{bytes}");
}
