//! Networks and trainings on a GPU equal those on the CPU, which other tests compare with PyTorch.
//!
//!     cargo test --features cuda -- gpu::
//!
//! Needs a GPU; continuous integration has none and compiles this file only.

use crate::ml::half_precision::{apart, check_halves, check_learning, results, toy_on};
use crate::ml::inception;
use crate::ml::training_loop::{Stopper, Toy, bits, config};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use erw::ml::kernels::autograd::gradients;
use erw::ml::models::classifier::{Classifier, ClassifierConfig};
use erw::ml::models::inception::Inception;
use erw::ml::models::sit::SavedActivations;
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::models::vit::{Vit, VitConfig};
use erw::ml::nn::params::{Frozen, ParamSet, Tensors};
use erw::ml::nn::precision::Precision;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::train::config::FitConfig;
use erw::ml::train::outcome::Outcome;
use tempfile::TempDir;

const CPU: Device = Device::Cpu;
/// Largest relative distance of f32 results: a sum of some thousand products in another order.
const F32: f64 = 2e-5;

fn gpu() -> Device {
    Device::new_cuda(0).unwrap()
}

fn normal(tag: u64, shape: &[usize]) -> Tensor {
    rng::normal_rows(7, Purpose::Probe, 0, &[tag], shape, &CPU).unwrap().get(0).unwrap()
}

/// A network with the same weights on the CPU and on the GPU: its outputs must be the same.
fn compare<N>(
    what: &str,
    weights: &Tensors,
    build: impl Fn(VarBuilder) -> Result<N>,
    input: &Tensor,
    run: impl Fn(&N, &Tensor) -> Result<Vec<Tensor>>,
) {
    let outputs = |device: &Device| {
        let here: Tensors = weights.iter().map(|(k, t)| (k.clone(), t.to_device(device).unwrap())).collect();
        let net = build(Frozen::new(here).builder(DType::F32, device)).unwrap();
        run(&net, &input.to_device(device).unwrap()).unwrap()
    };
    for (i, (cpu, gpu)) in outputs(&CPU).iter().zip(outputs(&gpu())).enumerate() {
        let error = apart(&gpu.to_device(&CPU).unwrap(), cpu);
        assert!(error < F32, "{what}: output {i} is off by {error:e}");
    }
}

fn random<N>(build: impl Fn(VarBuilder) -> Result<N>) -> Tensors {
    let (params, vb) = ParamSet::init(3, DType::F32, &CPU);
    build(vb).unwrap();
    params.tensors()
}

#[test]
fn a_sit_and_its_gradients_equal_the_cpu() {
    let exact = results(Precision::F32, &CPU);
    let got = results(Precision::F32, &gpu());
    assert_eq!(exact.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    for (name, got) in got {
        let error = apart(&got.to_device(&CPU).unwrap(), &exact[&name]);
        assert!(error < F32, "{name} is off by {error:e}");
    }
}

#[test]
fn half_precision_equals_f32_up_to_rounding() {
    check_halves(&gpu());
}

#[test]
fn half_precision_learns() {
    check_learning(&gpu());
}

#[test]
fn frozen_networks_equal_the_cpu() {
    let images = normal(1, &[2, 3, 32, 32]);
    let vae = VaeConfig::rgb(&[16, 32], 1, 4, 8, true);
    let build = |vb: VarBuilder| AutoencoderKl::new(&vae, vb);
    compare("encoder of the autoencoder", &random(build), build, &images, |net, x| {
        let posterior = net.encode(x)?;
        Ok(vec![posterior.mean, posterior.std])
    });
    let latents = normal(2, &[2, 4, 16, 16]);
    compare("decoder", &random(build), build, &latents, |net, z| Ok(vec![net.decode(z)?]));
    let vit = VitConfig { layer_scale: true, registers: 4, ..VitConfig::new(32, 8, 48, 3, 4) };
    let build = |vb: VarBuilder| Vit::new(&vit, vb);
    compare("vision transformer", &random(build), build, &images, |net, x| Ok(vec![net.tokens(x)?]));
    let classifier = ClassifierConfig {
        arch: Classifier::ARCH.into(),
        channels: vec![8, 16],
        features: 24,
        norm_num_groups: 4,
        classes: ["a", "b", "c"].map(String::from).into(),
        height: 32,
        width: 32,
    };
    let build = |vb: VarBuilder| Classifier::new(&classifier, vb);
    compare("classifier", &random(build), build, &images, |net, x| Ok(vec![net.features(x)?, net.logits(x)?]));
    let build = |vb: VarBuilder| Inception::new(Default::default(), vb);
    compare("Inception", inception::recipe(), build, &normal(3, &[1, 3, 299, 299]), |net, x| {
        let out = net.forward(x)?;
        Ok([Some(out.pool), out.spatial, out.logits].into_iter().flatten().collect())
    });
}

#[test]
fn an_autoencoder_learns_as_on_the_cpu() {
    let config = VaeConfig::rgb(&[16, 32], 1, 4, 8, true);
    let all = |device: &Device| {
        let (params, vb) = ParamSet::init(3, DType::F32, device);
        let net = AutoencoderKl::new(&config, vb).unwrap();
        let images = normal(1, &[2, 3, 16, 16]).to_device(device).unwrap();
        let posterior = net.encode(&images).unwrap();
        let noise = normal(2, &[2, 4, 8, 8]).to_device(device).unwrap();
        let out = net.decode(&posterior.sample(&noise).unwrap()).unwrap();
        let error = (out - &images).unwrap().sqr().unwrap().mean_all().unwrap();
        let loss = (error + posterior.kl().unwrap().mean_all().unwrap()).unwrap();
        gradients(params.vars(), &loss).unwrap()
    };
    let (exact, got) = (all(&CPU), all(&gpu()));
    assert_eq!(exact.len(), got.len());
    for (name, got) in got {
        let (got, exact) = (got.to_device(&CPU).unwrap(), &exact[&name]);
        // The bias before a group norm of one channel a group has no gradient but rounding.
        let size = exact.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        assert!(size < 1e-5 || apart(&got, exact) < 1e-3, "{name} is off by {:e}", apart(&got, exact));
    }
}

#[test]
fn a_resumed_training_makes_the_same_bits() {
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let cfg = |dir| FitConfig { loss_scaling: precision.needs_loss_scaling(), ..config(dir, 8) };
        let whole = toy_on(precision, &gpu()).finish(&cfg(&one));
        let stopper = Stopper { at: 3, ..Stopper::default() };
        assert!(matches!(toy_on(precision, &gpu()).fit(&cfg(&two), &stopper).unwrap(), Outcome::Stopped));
        let resumed = toy_on(precision, &gpu()).finish(&cfg(&two));
        assert_eq!(whole.curve, resumed.curve, "{precision:?}");
        assert!(bits(&whole) == bits(&resumed), "{precision:?}");
    }
}

#[test]
fn a_training_equals_the_cpu_up_to_rounding() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (cpu, gpu) = (Toy::on(&CPU).finish(&config(&one, 12)), Toy::on(&gpu()).finish(&config(&two, 12)));
    for (a, b) in cpu.curve.iter().zip(&gpu.curve) {
        assert!((a.loss - b.loss).abs() < 1e-4 * a.loss.abs().max(1.0), "step {}: {} {}", a.step, a.loss, b.loss);
    }
}

#[test]
fn recomputed_blocks_make_the_same_bits() {
    for precision in [Precision::F32, Precision::Bf16] {
        let trained = |keep: SavedActivations| {
            let dir = TempDir::new().unwrap();
            let toy = toy_on(precision, &gpu());
            Toy { model: toy.model.keeping(keep), ..toy }.finish(&config(&dir, 4))
        };
        assert!(
            bits(&trained(SavedActivations::Everything)) == bits(&trained(SavedActivations::Inputs)),
            "{precision:?}"
        );
    }
}

/// And the GPU is of use afterwards.
#[test]
fn too_large_a_tensor_is_an_error() {
    let text = Tensor::zeros((1 << 20, 1 << 20), DType::F32, &gpu()).unwrap_err().to_string();
    assert!(text.to_lowercase().contains("memory"), "{text}");
    let dir = TempDir::new().unwrap();
    assert_eq!(Toy::on(&gpu()).finish(&config(&dir, 1)).curve.len(), 1);
}
