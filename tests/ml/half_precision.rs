//! Half precision equals f32 up to rounding, gradients included, and f16 trains with a scaled loss.

use crate::ml::sit::{scramble, tiny};
use crate::ml::training_loop::{Stopper, Toy, bits, config};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::Module;
use erw::ml::diffusion::loss;
use erw::ml::kernels::autograd::gradients;
use erw::ml::models::sit::SiT;
use erw::ml::nn;
use erw::ml::nn::params;
use erw::ml::nn::params::{ParamSet, Tensors};
use erw::ml::nn::precision::Precision;
use erw::ml::nn::unfused;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::train::config::{FitConfig, StepLoss};
use erw::ml::train::outcome::{Outcome, Trained};
use erw::ml::train::{Callbacks, fit};
use tempfile::TempDir;

const CPU: Device = Device::Cpu;
/// Half the distance of 1 to the next number, of bf16 and f16.
const ROUNDING: [(Precision, f64); 2] = [(Precision::Bf16, 1.0 / 256.0), (Precision::F16, 1.0 / 2048.0)];

fn normal(tag: u64, shape: &[usize]) -> Tensor {
    rng::normal_rows(5, Purpose::Probe, 0, &[tag], shape, &CPU).unwrap().get(0).unwrap()
}

fn length(t: &Tensor) -> f64 {
    let square = t.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap();
    square.to_scalar::<f64>().unwrap().sqrt()
}

/// |a - b| / |b|
pub fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    length(&(wide(a) - wide(b)).unwrap()) / length(b)
}

/// Velocity, projection and gradients of a SiT with all its options.
pub fn results(precision: Precision, device: &Device) -> Tensors {
    let (params, vb) = ParamSet::init(1, DType::F32, device);
    let normal = |tag, shape: &[usize]| normal(tag, shape).to_device(device).unwrap();
    let model = SiT::new(&tiny(None), vb).unwrap().with_precision(precision);
    scramble(&params);
    let (x, features) = (normal(1, &[3, 4, 4, 4]), normal(2, &[3, 4, 10]));
    let (t, y) = (Tensor::new(&[0.1f32, 0.5, 0.9], device).unwrap(), Tensor::new(&[0u32, 3, 5], device).unwrap());
    let (velocity, z) = model.forward(&x, &t, &y).unwrap();
    let loss = (loss::velocity(&velocity, &x).unwrap() + loss::alignment(&[features], &z).unwrap()).unwrap();
    let grads = gradients(params.vars(), &loss).unwrap();
    let mut all = Tensors::from([("velocity".into(), velocity), ("projection".into(), z[0].clone())]);
    for (name, _) in params.vars() {
        let grad = grads.get(&name).unwrap_or_else(|| panic!("no gradient reaches {name}"));
        all.insert(name, grad.clone());
    }
    all
}

#[test]
fn a_network_in_half_precision_equals_f32_up_to_rounding() {
    check_halves(&CPU);
}

/// Half precision on a device against f32 on the CPU.
pub fn check_halves(device: &Device) {
    let exact = results(Precision::F32, &CPU);
    for (precision, rounding) in ROUNDING {
        for (name, got) in results(precision, device) {
            let got = got.to_device(&CPU).unwrap();
            assert_eq!(got.dtype(), DType::F32, "{name}");
            assert!(length(&got) > 0.0, "{precision:?}: {name} is zero");
            let error = apart(&got, &exact[&name]);
            // Most are off by less than 4 roundings; the keys' bias has next to no gradient, and a
            // large part of it is noise.
            assert!(error < 32.0 * rounding, "{precision:?}: {name} is off by {error:e}");
            // The class table alone is used as it is; what flows back to it is rounded like
            // everything else.
            assert!(error > rounding / 64.0, "{precision:?}: {name} is off by {error:e}, as if computed in f32");
        }
    }
}

#[test]
fn every_parameter_of_the_warmup_has_a_gradient() {
    for (precision, _) in ROUNDING {
        let (params, vb) = ParamSet::init(1, DType::F32, &CPU);
        let model = SiT::new(&tiny(Some(2)), vb).unwrap().with_precision(precision);
        scramble(&params);
        let (t, y) = (Tensor::zeros(2, DType::F32, &CPU).unwrap(), Tensor::new(&[1u32, 5], &CPU).unwrap());
        let z = model.projections(&normal(1, &[2, 4, 4, 4]), &t, &y).unwrap();
        let grads = loss::alignment(&[normal(2, &[2, 4, 10])], &z).unwrap().backward().unwrap();
        for (name, var) in params.vars() {
            assert!(grads.get(&var).is_some_and(|g| length(g) > 0.0), "{precision:?}: {name}");
        }
    }
}

/// Output, and gradients of `sum(output * weights)`, of f32 variables.
fn run(layer: &dyn Fn(&[Tensor]) -> Result<Tensor>, inputs: &[Tensor]) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = layer(&tensors).unwrap().to_dtype(DType::F32).unwrap();
    let grads = (&out * normal(99, out.dims())).unwrap().sum_all().unwrap().backward().unwrap();
    vars.iter().map(|v| grads.get(v).unwrap().clone()).chain([out.clone()]).collect()
}

/// What a GPU runs, in f16 on the CPU, which has products of it.
#[test]
fn half_precision_products_equal_f32_up_to_rounding() {
    let half = |t: &Tensor| t.to_dtype(DType::F16);
    let check = |what: &str, got: Vec<Tensor>, want: Vec<Tensor>| {
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let error = apart(got, want);
            assert!(error < 4.0 / 2048.0, "{what}: {i} is off by {error:e}");
            assert!(error > 0.1 / 2048.0, "{what}: {i} is off by {error:e}, as if computed in f32");
        }
    };
    let inputs = [normal(1, &[3, 30, 20]), normal(2, &[33, 20]), normal(3, &[33])];
    let got = run(&|t| unfused::half_linear(&half(&t[0])?, &half(&t[1])?, &half(&t[2])?), &inputs);
    check("linear", got, run(&|t| unfused::linear(&t[0], &t[1], &t[2]), &inputs));
    let inputs = [normal(1, &[2, 9, 3 * 2 * 8])];
    let got = run(&|t| unfused::half_attention(&half(&t[0])?, 2), &inputs);
    check("attention", got, run(&|t| unfused::attention(&t[0], 2), &inputs));
}

#[test]
fn attention_scores_stay_within_f16() {
    let qkv = (Tensor::ones((1, 2, 3 * 64), DType::F32, &CPU).unwrap() * 90.0).unwrap();
    let out = unfused::half_attention(&qkv.to_dtype(DType::F16).unwrap(), 1).unwrap();
    assert_eq!(apart(&out, &Tensor::full(90f32, (1, 2, 64), &CPU).unwrap()), 0.0);
}

#[test]
fn bias_gradients_are_summed_in_f32() {
    let bias = Var::zeros(1, DType::F32, &CPU).unwrap();
    let layer = nn::Linear::new(normal(1, &[1, 2]), bias.as_tensor().clone());
    let x = normal(2, &[4096, 2]);
    for dtype in [DType::BF16, DType::F16] {
        let out = layer.forward(&x.to_dtype(dtype).unwrap()).unwrap();
        let grads = out.to_dtype(DType::F32).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&bias).unwrap().to_vec1::<f32>().unwrap(), [4096.0]);
    }
}

#[test]
fn activation_derivatives_hold_for_large_f16() {
    let x = Var::new(&[-60f32, -2.0, 50.0], &CPU).unwrap();
    for f in [nn::gelu_tanh, nn::silu] {
        let out = f(&x.to_dtype(DType::F16).unwrap()).unwrap();
        assert_eq!(out.dtype(), DType::F16);
        let grads = out.to_dtype(DType::F32).unwrap().sum_all().unwrap().backward().unwrap();
        let got = grads.get(&x).unwrap().to_vec1::<f32>().unwrap();
        assert!(got[0].abs() < 1e-6 && (-0.2..0.0).contains(&got[1]) && (got[2] - 1.0).abs() < 1e-6, "{got:?}");
    }
}

fn toy(precision: Precision) -> Toy {
    toy_on(precision, &CPU)
}

pub fn toy_on(precision: Precision, device: &Device) -> Toy {
    let toy = Toy::on(device);
    Toy { model: toy.model.with_precision(precision), ..toy }
}

fn scaling(dir: &TempDir, steps: u64) -> FitConfig {
    FitConfig { loss_scaling: true, ..config(dir, steps) }
}

/// A training in f16 whose loss is infinite at the steps of `overflows`.
fn train(cfg: &FitConfig, overflows: &[u64], stopper: &Stopper) -> Result<Option<Trained>> {
    let toy = toy(Precision::F16);
    let cfg = FitConfig { accumulate: 2, ..cfg.clone() };
    let fit = fit(&toy.params, &cfg, stopper, &mut Callbacks::default(), &mut |step, micro| {
        let out = toy.loss(step, micro)?;
        Ok(if overflows.contains(&step) { StepLoss { loss: (out.loss * f64::INFINITY)?, ..out } } else { out })
    })?;
    Ok(match fit {
        Outcome::Done(trained) => Some(trained),
        Outcome::Stopped | Outcome::Followed => None,
        Outcome::Diverged(d) => panic!("{}", d.what),
    })
}

#[test]
fn a_training_whose_every_step_overflows_is_an_error() {
    let dir = TempDir::new().unwrap();
    let error = train(&scaling(&dir, 3), &[0, 1, 2], &Stopper::default()).err().unwrap().to_string();
    assert!(error.contains("all 3 steps were skipped"), "{error}");
    let dir = TempDir::new().unwrap();
    assert!(train(&scaling(&dir, 3), &[0, 1], &Stopper::default()).unwrap().is_some());
}

fn stop_at(at: u64) -> Stopper {
    Stopper { at, ..Stopper::default() }
}

#[test]
fn half_precision_learns_as_f32_does() {
    check_learning(&CPU);
}

/// Trainings in half precision on a device against those in f32 on the CPU.
pub fn check_learning(device: &Device) {
    let losses = |precision: Precision, device: &Device| {
        let dir = TempDir::new().unwrap();
        let cfg = FitConfig { loss_scaling: precision.needs_loss_scaling(), ..config(&dir, 8) };
        toy_on(precision, device).finish(&cfg).curve.into_iter().map(|p| [p.loss, p.grad_norm]).collect::<Vec<_>>()
    };
    let exact = losses(Precision::F32, &CPU);
    for (precision, rounding) in ROUNDING {
        let got = losses(precision, device);
        assert_eq!(got.len(), exact.len(), "no step was skipped");
        for (a, b) in got.iter().flatten().zip(exact.iter().flatten()) {
            assert!((a - b).abs() < 8.0 * rounding * b.abs().max(1.0), "{precision:?}: {a} against {b}");
        }
    }
}

/// In f32, where gradients of any size are exact, the scale changes nothing.
#[test]
fn a_scaled_loss_trains_to_the_same_bits() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (plain, scaled) = (Toy::new(4, 2).finish(&config(&one, 4)), Toy::new(4, 2).finish(&scaling(&two, 4)));
    assert_eq!(bits(&plain), bits(&scaled));
    assert_eq!(plain.curve, scaled.curve);
}

#[test]
fn a_skipped_step_touches_neither_weights_nor_moments_nor_averages() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    assert!(train(&scaling(&one, 9), &[], &stop_at(2)).unwrap().is_none());
    let stopper = stop_at(3);
    assert!(train(&scaling(&two, 9), &[2], &stopper).unwrap().is_none());
    let checkpoint = |dir: &TempDir, step: u64| {
        let mut all = params::load(&dir.path().join(format!("checkpoints/step-{step:012}.safetensors")), &CPU).unwrap();
        all.remove("check");
        all.into_iter().map(|(k, t)| (k, t.flatten_all().unwrap().to_dtype(DType::F64).unwrap())).collect::<Tensors>()
    };
    let (before, after) = (checkpoint(&one, 2), checkpoint(&two, 3));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(before.keys().any(|k| k.starts_with("second/")));
    for (name, t) in &before {
        let numbers = |t: &Tensor| t.to_vec1::<f64>().unwrap();
        match name.as_str() {
            "scaler/scale" => assert_eq!((numbers(t), numbers(&after[name])), (vec![65536.0], vec![32768.0])),
            "scaler/good" => assert_eq!((numbers(t), numbers(&after[name])), (vec![2.0], vec![0.0])),
            "scaler/skipped" => assert_eq!((numbers(t), numbers(&after[name])), (vec![0.0], vec![1.0])),
            _ => assert_eq!(numbers(t), numbers(&after[name]), "{name}"),
        }
    }
    let said = "skipped step 2: gradients overflow in f16; loss scale 65536 to 32768";
    assert!(stopper.heard.borrow().iter().any(|h| h == said), "{:?}", stopper.heard);
}

#[test]
fn a_training_with_skipped_steps_resumes_to_the_same_bits() {
    let overflows = [1, 3, 6, 8];
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let heard = stop_at(99);
    let whole = train(&scaling(&one, 9), &overflows, &heard).unwrap().unwrap();
    for at in [2, 4, 5] {
        assert!(train(&scaling(&two, 9), &overflows, &stop_at(at)).unwrap().is_none());
    }
    let resumed = train(&scaling(&two, 9), &overflows, &stop_at(99)).unwrap().unwrap();
    assert_eq!(bits(&whole), bits(&resumed));
    assert_eq!(whole.curve, resumed.curve);
    assert_eq!(whole.curve.iter().map(|p| p.step).collect::<Vec<_>>(), [1, 3, 5, 6, 8]);
    let heard = heard.heard.borrow();
    assert!(heard.contains(&"4 of 9 steps skipped because their gradients overflowed in f16".to_string()), "{heard:?}");
    assert!(heard.contains(&"loss_scale 3".to_string()), "{heard:?}");
}

#[test]
fn a_network_that_always_overflows_ends_the_training() {
    let dir = TempDir::new().unwrap();
    let error = train(&scaling(&dir, 50), &(0..50).collect::<Vec<_>>(), &stop_at(99)).err().unwrap().to_string();
    assert!(
        error.starts_with("the gradients are not finite in f16 at step 16 (counted from 0) with a loss"),
        "{error}"
    );
}
