//! The velocity of a SiT as commands of the emulated card, and whole samplings with it, against
//! candle's operations on the CPU.

use super::networks::{Counting, config, network, normal};
use super::support::card;
use candle_core::{Device, Result, Tensor};
use erw::ml::diffusion::interpolant::Path;
use erw::ml::diffusion::sampler::{Away, Method, SamplerConfig, sample, start_noise, step_noise};
use erw::ml::gpu::velocity::{Evaluation, VelocityOnGpu};
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit::{MlpKind, NormKind, SiT, SiTConfig};
use erw::ml::nn::precision::Precision;
use erw_gpu::program::Type;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const CPU: Device = Device::Cpu;
const TYPES: [(Type, f64); 3] = [(Type::F32, 2e-5), (Type::Bf16, 2e-2), (Type::F16, 3e-3)];

/// A network on the CPU in f32, and the same on a card with memory for `batch` points.
fn both(config: &SiTConfig, batch: usize, ty: Type) -> (SiT, VelocityOnGpu) {
    let (params, model) = network(config, Precision::F32);
    let evaluation = Evaluation { config: config.clone(), batch, ty };
    let velocity = VelocityOnGpu::new(card(), &evaluation, &model, &params.tensors()).unwrap();
    (model, velocity)
}

/// Points, times and classes, among them the null class if there is one.
fn points(config: &SiTConfig, count: usize) -> [Tensor; 3] {
    let times: Vec<f32> = (0..count).map(|i| 1.0 - i as f32 / 7.0).collect();
    let classes: Vec<u32> = (0..count).map(|i| (config.table_rows() - 1 - i % 3) as u32).collect();
    let x = normal(count as u64, &[&[count][..], &config.state_shape()].concat());
    [x, Tensor::new(times, &CPU).unwrap(), Tensor::new(classes, &CPU).unwrap()]
}

/// The distance of two tensors, relative to the second.
fn distance(got: &Tensor, want: &Tensor) -> f64 {
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_dtype(candle_core::DType::F64).unwrap();
    let number = |t: &Tensor| norm(t).to_scalar::<f64>().unwrap().sqrt();
    number(&(got - want).unwrap()) / number(want)
}

/// Every switch, and head dimensions with kernels of their own and without.
#[test]
fn velocities_equal_those_of_the_cpu() {
    let base = config();
    let networks = [
        ("plain", base.clone()),
        ("rotary embedding", SiTConfig { rope: true, ..base.clone() }),
        ("QK-norm", SiTConfig { qk_norm: true, ..base.clone() }),
        ("both", SiTConfig { rope: true, qk_norm: true, ..base.clone() }),
        ("RMSNorm", SiTConfig { norm: NormKind::Rms, ..base.clone() }),
        ("RMSNorms of queries and keys", SiTConfig { norm: NormKind::Rms, qk_norm: true, rope: true, ..base.clone() }),
        ("class token", SiTConfig { class_token: Some(48), ..base.clone() }),
        ("swiglu", SiTConfig { mlp: MlpKind::SwiGlu, mlp_ratio: 3.0, ..base.clone() }),
        ("a wide swiglu", SiTConfig { mlp: MlpKind::SwiGlu, mlp_ratio: 6.0, qk_norm: true, ..base.clone() }),
        ("heads of 72", SiTConfig { hidden: 144, rope: true, ..base.clone() }),
        ("heads of 12", SiTConfig { hidden: 24, qk_norm: true, ..base.clone() }),
        ("no null class", SiTConfig { class_dropout: 0.0, num_classes: 6, ..base.clone() }),
        // Projectors are not run, so it does not matter which they are.
        ("convolutional projectors", SiTConfig { projector: ProjectorKind::Conv3, ..base.clone() }),
    ];
    for (what, config) in &networks {
        for (ty, bound) in TYPES {
            let (model, mut velocity) = both(config, 3, ty);
            let [x, t, y] = points(config, 3);
            let want = model.velocity(&x, &t, &y).unwrap();
            let off = distance(&velocity.velocity(&x, &t, &y).unwrap(), &want);
            assert!(off < bound, "{what} in {ty:?}: {off:e}");
        }
    }
}

/// Batches take turns: with guidance, without it, and the last, which is smaller.
#[test]
fn batches_of_any_size_up_to_the_largest_take_turns() {
    let config = SiTConfig { class_token: Some(12), qk_norm: true, ..config() };
    for (ty, bound) in TYPES {
        let (model, mut velocity) = both(&config, 4, ty);
        for count in [4, 2, 3, 1, 4, 2] {
            let [x, t, y] = points(&config, count);
            let got = velocity.velocity(&x, &t, &y).unwrap();
            assert_eq!(got.dims(), x.dims());
            let off = distance(&got, &model.velocity(&x, &t, &y).unwrap());
            assert!(off < bound, "{count} points in {ty:?}: {off:e}");
        }
    }
}

fn sampled(
    config: &SiTConfig,
    sampler: &SamplerConfig,
    velocity: &mut dyn FnMut(&[&Tensor; 3]) -> Result<Tensor>,
) -> Tensor {
    let ids = [5, 6];
    let shape = [config.in_channels, config.input_size, config.input_size];
    let start = start_noise(1, &ids, &shape, &CPU).unwrap();
    let classes = Tensor::new(&[1u32, 4], &CPU).unwrap();
    let null = Tensor::full(config.null_class(), 2, &CPU).unwrap();
    let mut noise = |step| step_noise(1, step, &ids, &shape, &CPU);
    let mut at = |x: &Tensor, t: &Tensor, y: &Tensor| velocity(&[x, t, y]);
    sample(sampler, &start, &classes, Away::Classes(&null), &mut noise, &mut at).unwrap()
}

/// Every sampler, with guidance in a part of the interval: batches of two and of four points.
#[test]
fn samples_equal_those_of_the_cpu() {
    let config = SiTConfig { rope: true, qk_norm: true, ..config() };
    for (ty, bound) in TYPES {
        let (model, mut on_gpu) = both(&config, 4, ty);
        for (method, cfg_scale) in [
            (Method::OdeEuler, 1.0),
            (Method::OdeEuler, 2.2),
            (Method::OdeHeun, 1.8),
            (Method::OdeDopri5, 1.8),
            (Method::Sde, 1.0),
            (Method::Sde, 2.2),
        ] {
            // Rounding changes the steps that a solver chooses, and with them samples by up to its
            // tolerance; of a half type it is above the tolerance.
            let bound = match (method, ty) {
                (Method::OdeDopri5, Type::F32) => 1e-2,
                (Method::OdeDopri5, _) => continue,
                _ => bound,
            };
            let (guidance_low, guidance_high, path) = (0.3, 0.9, Path::Linear);
            let (shift, atol, rtol) = (None, None, None);
            let sampler =
                SamplerConfig { method, steps: 5, shift, atol, rtol, cfg_scale, guidance_low, guidance_high, path };
            let want = sampled(&config, &sampler, &mut |[x, t, y]| model.velocity(x, t, y));
            let mut sizes = vec![];
            let got = sampled(&config, &sampler, &mut |[x, t, y]| {
                sizes.push(x.dims()[0]);
                on_gpu.velocity(x, t, y)
            });
            let guided = sizes.iter().filter(|n| **n == 4).count();
            assert_eq!((guided > 0, guided < sizes.len()), (cfg_scale > 1.0, true), "{method:?}: {sizes:?}");
            let off = distance(&got, &want);
            assert!(off < bound, "{method:?} with {cfg_scale} in {ty:?}: {off:e}");
        }
    }
}

#[test]
fn sampling_takes_the_memory_that_was_told() {
    for ty in [Type::F32, Type::F16] {
        let config = SiTConfig { norm: NormKind::Rms, qk_norm: true, class_token: Some(12), ..config() };
        let (params, model) = network(&config, Precision::F32);
        let evaluation = Evaluation { config: config.clone(), batch: 4, ty };
        let card = Counting::new(card());
        let taken = card.counter();
        let mut velocity = VelocityOnGpu::new(Arc::new(card), &evaluation, &model, &params.tensors()).unwrap();
        for count in [4, 1] {
            let [x, t, y] = points(&config, count);
            velocity.velocity(&x, &t, &y).unwrap();
        }
        assert_eq!(taken.load(Relaxed), evaluation.memory().unwrap());
    }
    // 675 million weights in bf16, and 22 D bytes a token.
    let config = SiTConfig::published("SiT-XL/2", [4, 32], 1000, vec![768], 8).unwrap();
    let gigabytes = |batch| {
        let evaluation = Evaluation { config: config.clone(), batch, ty: Type::Bf16 };
        evaluation.memory().unwrap() as f64 / 1e9
    };
    assert!((1.35..1.7).contains(&gigabytes(1)), "{} GB", gigabytes(1));
    assert!((4.5..5.2).contains(&gigabytes(512)), "{} GB", gigabytes(512));
}

#[test]
fn what_does_not_fit_is_refused() {
    let config = config();
    let said = |result: Result<Tensor>| result.unwrap_err().to_string().lines().next().unwrap_or_default().to_string();
    let (_, mut velocity) = both(&config, 2, Type::F32);
    let [x, t, y] = points(&config, 3);
    assert!(said(velocity.velocity(&x, &t, &y)).starts_with("a network at points [3, 4, 8, 8]"));
    let [x, t, y] = points(&config, 2);
    assert!(said(velocity.velocity(&x, &t.narrow(0, 0, 1).unwrap(), &y)).starts_with("2 points with times [1]"));
    let unknown = Tensor::new(&[0u32, 6], &CPU).unwrap();
    assert_eq!(said(velocity.velocity(&x, &t, &unknown)), "class 6 of a network with 6 rows of classes");
    let of = |config: SiTConfig| Evaluation { config, batch: 1, ty: Type::F32 }.check().map_err(|e| e.to_string());
    assert!(of(SiTConfig { warmup_depth: Some(1), ..config.clone() }).is_err());
    assert!(of(SiTConfig { hidden: 6, heads: 1, ..config.clone() }).is_err());
    of(config).unwrap();
}
