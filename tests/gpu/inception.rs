//! Inception as commands of the emulated card, against candle's operations on the CPU.

use super::networks::{Counting, distance, normal};
use super::support::card;
use crate::ml::inception::recipe;
use candle_core::Device;
use erw::ml::gpu::inception::plan;
use erw::ml::models::feature_network::Outputs;
use erw::ml::models::feature_network::mode::Mode;
use erw::ml::models::inception::{Inception, SIDE};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The smallest image that leaves a pixel at the end.
const SMALL: usize = 75;

#[test]
fn features_equal_those_of_the_cpu() {
    let inception = Inception::from_tensors(Mode::Adm, recipe().clone(), &Device::Cpu).unwrap();
    let images = normal(1, &[1, 3, SMALL, SMALL]);
    let Outputs { pool, spatial, logits } = inception.forward(&images).unwrap();
    let plan = plan(&inception, SMALL, 1);
    let card = Counting::new(card());
    let taken = card.counter();
    let got = plan.on(Arc::new(card)).unwrap().run(&images).unwrap();
    assert_eq!(taken.load(Relaxed), plan.memory().unwrap());
    let of_spatial = got[0].permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
    for (what, got, want) in
        [("spatial", &of_spatial, spatial.unwrap()), ("pool", &got[1], pool), ("logits", &got[2], logits.unwrap())]
    {
        let off = distance(&got.flatten_from(1).unwrap(), &want);
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
