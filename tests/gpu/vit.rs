//! Vision transformers as commands of the emulated card, against candle's operations on the CPU.

use super::networks::{Counting, distance, move_away, normal};
use super::support::card;
use candle_core::{DType, Device};
use erw::ml::gpu::encoder::TransformerPlan;
use erw::ml::gpu::vit::{VitEvaluation, VitOnGpu};
use erw::ml::models::encoder::config::EncoderConfig;
use erw::ml::models::encoder::{Encoder, resample_positions};
use erw::ml::models::vit::{Mlp, Vit, VitConfig};
use erw::ml::nn::params::ParamSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const CPU: Device = Device::Cpu;
/// Sums of some hundred products in another order.
const BOUND: f64 = 2e-5;

/// A transformer of each family, with its switches and the heads of its sizes.
fn families() -> Vec<(&'static str, VitConfig)> {
    let base = VitConfig::new(56, 14, 128, 3, 2);
    let dinov2 = VitConfig { layer_scale: true, ..base.clone() };
    vec![
        ("DINOv1, MoCo v3", VitConfig::new(48, 16, 128, 2, 2)),
        ("DINOv2", dinov2.clone()),
        ("DINOv2 with registers", VitConfig { registers: 4, ..dinov2.clone() }),
        ("DINOv2-g", VitConfig { mlp: Mlp::SwiGlu, mlp_dim: 344, registers: 4, ..dinov2 }),
        ("MAE", VitConfig { final_norm: false, ..base.clone() }),
        (
            "CLIP",
            VitConfig {
                mlp: Mlp::QuickGelu,
                no_patch_bias: true,
                pre_norm: true,
                final_norm: false,
                eps: 1e-5,
                ..base.clone()
            },
        ),
        (
            "DINOv3",
            VitConfig { rope_theta: Some(100.0), registers: 4, layer_scale: true, ..VitConfig::new(56, 14, 128, 3, 2) },
        ),
        ("I-JEPA", VitConfig { class_token: false, ..VitConfig::new(56, 14, 160, 2, 2) }),
        ("trained here", VitConfig { exact_gelu: false, ..VitConfig::new(16, 4, 48, 2, 4) }),
    ]
}

/// Random parameters far from zeros and ones.
fn random(config: &VitConfig) -> (ParamSet, Vit) {
    let (params, vb) = ParamSet::init(3, DType::F32, &CPU);
    let vit = Vit::new(config, vb).unwrap();
    move_away(&params);
    (params, vit)
}

/// All tokens: the class token and registers, too. Batches take turns, the last is smaller.
#[test]
fn tokens_of_every_family_equal_those_of_the_cpu() {
    for (name, config) in families() {
        let (params, vit) = random(&config);
        // The grid of the table, and another.
        for grid in [config.grid(), config.grid() + 1] {
            let evaluation = VitEvaluation { config: config.clone(), grid, batch: 2 };
            let positions = resample_positions(vit.positions(), usize::from(config.class_token), grid).unwrap();
            let mut on_gpu = VitOnGpu::new(card(), &evaluation, &params.tensors(), &positions).unwrap();
            for count in [2, 1, 2] {
                let side = grid * config.patch_size;
                let images = normal(count as u64, &[count, 3, side, side]);
                let want = vit.encode_at(&vit.embed(&images).unwrap(), &positions).unwrap();
                let off = distance(&on_gpu.encode(&images).unwrap(), &want);
                assert!(off < BOUND, "{name}, {count} images of {grid} x {grid} patches: {off:e}");
            }
        }
    }
}

#[test]
fn an_encoder_gives_the_tokens_of_the_cpu() {
    let vit = VitConfig { layer_scale: true, registers: 2, ..VitConfig::new(56, 14, 64, 2, 1) };
    let (params, _) = random(&vit);
    let fixed = EncoderConfig::fixed(vit, [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]);
    for (config, side) in [(fixed.clone(), 40), (EncoderConfig { pixels_per_token: Some(16), ..fixed }, 48)] {
        let encoder = Encoder::new(&config, params.tensors(), &CPU).unwrap();
        let pixels = ((normal(1, &[3, 3, side, side]) * 60.0).unwrap() + 128.0).unwrap();
        let images = pixels.clamp(0f32, 255f32).unwrap().to_dtype(DType::U8).unwrap();
        let want = encoder.outputs(&images, &[]).unwrap();
        // Three images by batches of two.
        let plan = TransformerPlan::of_encoder(&encoder, params.tensors(), side, 2).unwrap();
        let got = encoder.computed_by(plan.on(card()).unwrap());
        assert!(got.outputs(&images, &[1]).is_err(), "attention");
        let got = got.outputs(&images, &[]).unwrap();
        let off =
            distance(&got.tokens, &want.tokens).max(distance(&got.class_token.unwrap(), &want.class_token.unwrap()));
        assert!(off < BOUND, "{side}: {off:e}");
    }
}

#[test]
fn an_encoder_takes_the_memory_that_was_told() {
    for (_, config) in families() {
        let (params, vit) = random(&config);
        let evaluation = VitEvaluation { grid: config.grid(), batch: 2, config };
        let card = Counting::new(card());
        let taken = card.counter();
        let mut on_gpu = VitOnGpu::new(Arc::new(card), &evaluation, &params.tensors(), vit.positions()).unwrap();
        let side = evaluation.config.image_size;
        on_gpu.encode(&normal(1, &[2, 3, side, side])).unwrap();
        assert_eq!(taken.load(Relaxed), evaluation.memory().unwrap());
        assert!(on_gpu.encode(&normal(1, &[1, 3, side / 2, side])).is_err(), "of another size");
    }
    let odd = VitConfig { mlp_dim: 30, ..VitConfig::new(16, 4, 48, 2, 4) };
    assert!(VitEvaluation { grid: odd.grid(), batch: 1, config: odd }.check().is_err());
}
