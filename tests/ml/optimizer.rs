//! The optimizer equals PyTorch: three steps of clipped AdamW with moving averages, from golden
//! files.

use crate::ml::sit::{classes, targets, trainable, without_key_bias};
use crate::support::golden::{self, Golden};
use candle_core::{DType, Device, Tensor};
use candle_nn::Init;
use erw::ml::diffusion::interpolant::Path;
use erw::ml::diffusion::loss;
use erw::ml::kernels::autograd::Gradients;
use erw::ml::models::sit::SiT;
use erw::ml::nn::params::ParamSet;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::train::adamw::{AdamW, AdamWConfig, Decay, clip_factor, grad_norm};
use erw::ml::train::ema::Ema;

const CPU: Device = Device::Cpu;

fn config(g: &Golden) -> AdamWConfig {
    let value = |name: &str| g.about["adamw"][name].as_f64().unwrap();
    let beta = |i: usize| g.about["adamw"]["betas"][i].as_f64().unwrap();
    AdamWConfig {
        lr: value("lr"),
        beta1: beta(0),
        beta2: beta(1),
        eps: value("eps"),
        weight_decay: value("weight_decay"),
        decay: Decay::All,
    }
}

/// Losses of step k of a golden file: velocity and alignment.
fn losses(g: &Golden, model: &SiT, k: usize) -> (Tensor, Tensor) {
    let (noise, t) = (g.get(&format!("in/step{k}_noise")), g.get(&format!("in/step{k}_t")));
    let (point, target) =
        Path::Linear.point_and_velocity(&g.get("in/x"), &noise, &t.to_vec1::<f32>().unwrap()).unwrap();
    let y = classes(g, model.config().null_class());
    let (v, projections) = model.forward(&point, &t, &y).unwrap();
    (loss::velocity(&v, &target).unwrap(), loss::alignment(&targets(g), &projections).unwrap())
}

fn backward(params: &ParamSet, loss: &Tensor) -> Gradients {
    let mut grads = Gradients::new(params.vars());
    grads.backward(loss).unwrap();
    grads
}

#[test]
fn three_steps_and_their_averages_equal_pytorch() {
    let files: Vec<Golden> = golden::names("sit_").iter().map(|n| Golden::open(n)).collect();
    let files: Vec<Golden> = files.into_iter().filter(|g| g.about["adamw"].is_object()).collect();
    assert!(files.len() >= 2, "golden files with optimiser steps");
    for g in &files {
        for (decay, fused) in [(0.9, true), (0.9999, true), (0.9, false)] {
            three_steps(g, decay, fused);
        }
    }
}

fn three_steps(g: &Golden, decay: f64, fused: bool) {
    let (model, params) = trainable(g);
    let make = if fused { AdamW::new } else { AdamW::new_plain };
    let mut optimizer = make(&params, config(g)).unwrap();
    let mut ema = Ema::new(&params, decay).unwrap();
    let number = |name: &str| g.about["adamw"][name].as_f64().unwrap();
    let mut logs = vec![];
    for k in 0..3 {
        let (velocity, align) = losses(g, &model, k);
        let loss = (&velocity + (&align * number("proj_coeff")).unwrap()).unwrap();
        let grads = backward(&params, &loss);
        let norm = grad_norm(&grads).unwrap();
        optimizer.step(&grads, clip_factor(norm, number("clip")), std::slice::from_mut(&mut ema)).unwrap();
        logs.extend([velocity.to_scalar::<f32>().unwrap(), align.to_scalar::<f32>().unwrap(), norm as f32]);
    }
    g.assert_close("step logs", &Tensor::from_vec(logs, (3, 3), &CPU).unwrap(), &g.get("out/step_logs"), "after");
    let averages = ema.tensors();
    for (name, var) in params.vars() {
        let compare = |what: &str, got: &Tensor| {
            if let Some(want) = g.tensors.get(&format!("{what}/{name}")) {
                let cut = |t: &Tensor| without_key_bias(model.config(), &name, t);
                g.assert_close(&format!("{what} {name}"), &cut(got), &cut(want), "after");
            }
        };
        assert!(g.tensors.contains_key(&format!("after/{name}")), "{}: no after/{name}", g.name);
        compare("after", &var);
        compare(&format!("ema{decay}"), &averages[&name]);
    }
}

/// Two parameters with numbers, and gradients for them.
fn small() -> (ParamSet, Gradients) {
    let (params, vb) = ParamSet::init(1, DType::F32, &CPU);
    let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
    vb.get_with_hints((40, 3), "a", normal).unwrap();
    vb.get_with_hints(7, "b", normal).unwrap();
    let given = params.vars().into_iter().map(|(name, var)| {
        let id = rng::name_id(&name);
        let grad = rng::normal_rows(2, Purpose::Probe, 0, &[id], var.dims(), &CPU).unwrap().get(0).unwrap();
        (name, grad)
    });
    let grads = Gradients::from_tensors(params.vars(), &given.collect()).unwrap();
    (params, grads)
}

const SMALL: AdamWConfig =
    AdamWConfig { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, decay: Decay::All };

#[test]
fn saved_moments_continue_exactly() {
    let finish = |cut: bool| {
        let (params, grads) = small();
        let mut optimizer = AdamW::new(&params, SMALL).unwrap();
        let mut ema = Ema::new(&params, 0.9).unwrap();
        for step in 0..6 {
            if cut && step == 3 {
                let (mut first, mut second) = optimizer.moments();
                optimizer = AdamW::from_tensors(&params, SMALL, 3, &mut first, &mut second).unwrap();
                ema = Ema::from_tensors(&params, 0.9, &mut ema.tensors()).unwrap();
            }
            optimizer.step(&grads, 1.0, std::slice::from_mut(&mut ema)).unwrap();
        }
        let mut all: Vec<f32> = vec![];
        for t in params.tensors().into_values().chain(ema.tensors().into_values()) {
            all.extend(t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
        all
    };
    assert_eq!(finish(false), finish(true));
}

#[test]
fn moments_of_another_model_are_refused() {
    let (params, _) = small();
    let (mut first, mut second) = AdamW::new(&params, SMALL).unwrap().moments();
    first.remove("b");
    let error = AdamW::from_tensors(&params, SMALL, 3, &mut first, &mut second).unwrap_err().to_string();
    assert!(error.contains("parameter b"), "{error}");
}

#[test]
fn clipping_scales_the_norm_over_all_gradients() {
    let (_, grads) = small();
    let numbers: Vec<f32> =
        grads.tensors().unwrap().values().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect();
    let want = numbers.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let norm = grad_norm(&grads).unwrap();
    assert!((norm - want).abs() < 1e-5 * want);
    assert!((clip_factor(norm, 1.0) * norm - 1.0).abs() < 1e-6);
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
    assert_eq!(clip_factor(50.0, 0.0), 1.0);
}
