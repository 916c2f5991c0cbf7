//! Every option of training has its effect, and none cuts off a gradient.

use crate::ml::sit::{scramble, tiny};
use crate::stages::two_phase_training::Lab;
use crate::support::bench::Ear;
use candle_core::{DType, Device, Tensor};
use candle_nn::Init;
use erw::error::ErrorKind;
use erw::ml::diffusion::loss;
use erw::ml::kernels::autograd::{Gradients, gradients};
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit::{Also, MlpKind, NormKind, SiT, SiTConfig};
use erw::ml::nn::params;
use erw::ml::nn::params::ParamSet;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::train::adamw::{AdamW, AdamWConfig, Decay};
use erw::ml::train::ema::Ema;
use erw::stages::sampling::sample;
use erw::stages::training::{train, warmup};
use serde_json::{Value, json};
use std::path::PathBuf;

const CPU: Device = Device::Cpu;

fn normal(tag: u64, shape: &[usize]) -> Tensor {
    rng::normal_rows(1, Purpose::Probe, 0, &[tag, tag + 1, tag + 2], shape, &CPU).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn model(config: &SiTConfig) -> (SiT, ParamSet) {
    let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
    let model = SiT::new(config, vb).unwrap();
    scramble(&params);
    (model, params)
}

/// Names of the parameters whose gradient is absent or zero.
fn unreached(params: &ParamSet, loss: &Tensor) -> Vec<String> {
    let grads = gradients(params.vars(), loss).unwrap();
    let size = |g: &Tensor| g.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    let names = params.vars().into_iter().map(|(name, _)| name);
    names.filter(|name| grads.get(name).is_none_or(|g| size(g) == 0.0)).collect()
}

#[test]
fn every_parameter_has_a_gradient_under_every_option() {
    let plain = tiny(None);
    let two = SiTConfig { z_dims: vec![10, 7], encoder_depth: vec![3, 1], ..plain.clone() };
    let configs = [
        plain.clone(),
        SiTConfig { mlp: MlpKind::SwiGlu, ..plain.clone() },
        SiTConfig { projector: ProjectorKind::Conv3, ..plain.clone() },
        two.clone(),
        SiTConfig { mlp: MlpKind::SwiGlu, projector: ProjectorKind::Conv3, ..two },
        SiTConfig { norm: NormKind::Rms, ..plain.clone() },
        SiTConfig { rope: false, qk_norm: false, ..plain },
    ];
    let (x, t) = (normal(1, &[4, 4, 4]), Tensor::new(&[0.3f32, 0.8, 0.5], &CPU).unwrap());
    let y = Tensor::new(&[1u32, 5, 0], &CPU).unwrap();
    for full in configs {
        for warmup_depth in [None, Some(3)] {
            let config = SiTConfig { warmup_depth, ..full.clone() };
            let (model, params) = model(&config);
            let features: Vec<Tensor> = config.z_dims.iter().map(|z| normal(*z as u64, &[4, *z])).collect();
            for contrast in [false, true] {
                let align = |projections: &[Tensor]| match contrast {
                    false => loss::alignment(&features, projections).unwrap(),
                    true => loss::nt_xent(&features, projections, 0.1).unwrap(),
                };
                let loss = if warmup_depth.is_some() {
                    align(&model.projections(&x, &t, &y).unwrap())
                } else {
                    let out = model
                        .forward_with(&x, &t, &y, &Also { projections: true, hidden: Some(2), ..Also::default() })
                        .unwrap();
                    let spread = loss::dispersive(&out.hidden.unwrap(), 0.5).unwrap();
                    (loss::velocity(&out.velocity, &x).unwrap() + align(&out.projections) + spread).unwrap()
                };
                // Without RoPE and QK-norm the loss does not depend on the keys' bias, whose
                // gradient is rounding.
                let cut = unreached(&params, &loss);
                // Rows of classes that no sample has are zero within the table's gradient, not all
                // of it. The deepest tap of a warmup may lie before its last block.
                let deepest = (0..config.z_dims.len()).map(|k| config.tap(k)).max().unwrap();
                let idle = |name: &String| {
                    warmup_depth.is_some()
                        && name.strip_prefix("blocks.").and_then(|n| n.split('.').next()?.parse::<usize>().ok())
                            >= Some(deepest)
                };
                let cut: Vec<&String> = cut.iter().filter(|n| !idle(n)).collect();
                assert!(cut.is_empty(), "{config:?}, contrast {contrast}: nothing reaches {cut:?}");
            }
        }
    }
}

#[test]
fn dispersion_reaches_only_the_blocks_before_it() {
    let (model, params) = model(&tiny(None));
    let (x, t) = (normal(1, &[4, 4, 4]), Tensor::new(&[0.3f32, 0.8, 0.5], &CPU).unwrap());
    let y = Tensor::new(&[1u32, 5, 0], &CPU).unwrap();
    let out = model.forward_with(&x, &t, &y, &Also { projections: false, hidden: Some(2), ..Also::default() }).unwrap();
    assert!(out.projections.is_empty());
    let all = model.block_outputs(&x, &t, &y).unwrap();
    let hidden = out.hidden.unwrap();
    assert_eq!(numbers(&hidden), numbers(&all[1]));
    let cut = unreached(&params, &loss::dispersive(&hidden, 0.5).unwrap());
    let beyond = |n: &String| ["blocks.2.", "final_layer.", "projectors."].iter().any(|p| n.starts_with(p));
    assert!(cut.iter().all(beyond), "{cut:?}");
    assert_eq!(params.vars().iter().filter(|(n, _)| beyond(n)).count(), cut.len());
}

#[test]
fn each_encoder_has_its_own_block() {
    let (x, t) = (normal(1, &[4, 4, 4]), Tensor::new(&[0.3f32, 0.8, 0.5], &CPU).unwrap());
    let y = Tensor::new(&[1u32, 5, 0], &CPU).unwrap();
    let projections = |depths: &[usize]| {
        let config = SiTConfig { z_dims: vec![10, 10], encoder_depth: depths.to_vec(), ..tiny(None) };
        let model = model(&config).0;
        let all = model.forward(&x, &t, &y).unwrap().1;
        // Alone they are the same, though blocks behind the last are not run.
        let alone = model.projections(&x, &t, &y).unwrap();
        assert_eq!(all.iter().map(numbers).collect::<Vec<_>>(), alone.iter().map(numbers).collect::<Vec<_>>());
        [numbers(&all[0]), numbers(&all[1])]
    };
    let (low, high, mixed) = (projections(&[1]), projections(&[3, 3]), projections(&[3, 1]));
    assert!(low[0] != high[0] && low[1] != high[1]);
    assert_eq!(mixed, [high[0].clone(), low[1].clone()]);
}

#[test]
fn a_conv_projector_sees_neighbouring_tokens() {
    let config = SiTConfig { projector: ProjectorKind::Conv3, input_size: 6, ..tiny(Some(1)) };
    let (model, params) = model(&config);
    let t = Tensor::zeros(3, DType::F32, &CPU).unwrap();
    let (x, y) = (normal(1, &[4, 6, 6]), Tensor::new(&[1u32, 5, 0], &CPU).unwrap());
    let tokens = model.block_outputs(&x, &t, &y).unwrap().remove(0);
    let got = model.projections(&x, &t, &y).unwrap().remove(0);
    assert_eq!(got.dims(), [3, 9, 10]);
    let param = |name: &str| params.get(&format!("projectors.0.projection_layer.{name}")).unwrap();
    let (weight, bias) = (param("weight"), param("bias"));
    assert_eq!(weight.dims(), [10, 24, 3, 3]);
    // By hand: image 1, token (0, 2), which has neighbours below and to the left only.
    let tokens = tokens.get(1).unwrap().to_vec2::<f32>().unwrap();
    for out in 0..10 {
        let w = weight.get(out).unwrap().to_vec3::<f32>().unwrap();
        let mut want = bias.to_vec1::<f32>().unwrap()[out];
        for (dy, dx) in [(0, 0), (0, -1), (1, 0), (1, -1)] {
            let token = &tokens[(dy * 3 + 2 + dx) as usize];
            want += (0..24).map(|c| w[c][(dy + 1) as usize][(dx + 1) as usize] * token[c]).sum::<f32>();
        }
        let got = got.get(1).unwrap().get(2).unwrap().to_vec1::<f32>().unwrap()[out];
        assert!((got - want).abs() < 1e-4, "feature {out}: {got} against {want}");
    }
}

#[test]
fn a_gated_mlp_has_the_parameters_of_lightningdit() {
    let (_, params) = model(&SiTConfig { mlp: MlpKind::SwiGlu, ..tiny(None) });
    let shape = |name: &str| params.get(&format!("blocks.0.mlp.{name}")).map(|v| v.dims().to_vec());
    assert_eq!([shape("w12.weight"), shape("w12.bias")], [Some(vec![128, 24]), Some(vec![128])]);
    assert_eq!([shape("w3.weight"), shape("w3.bias")], [Some(vec![24, 64]), Some(vec![24])]);
    assert_eq!(shape("fc1.weight"), None);
}

/// Parameters of the kinds that decay tells apart, and gradients of zero for them: only decay moves
/// them.
fn resting() -> (ParamSet, Gradients) {
    let (params, vb) = ParamSet::init(1, DType::F32, &CPU);
    let one = Init::Const(1.0);
    for (name, shape) in [
        ("blocks.0.attn.qkv.weight", &[4, 3][..]),
        ("blocks.0.attn.qkv.bias", &[4]),
        ("blocks.0.attn.q_norm.weight", &[3]),
        ("x_embedder.proj.weight", &[4, 2, 2, 2]),
        ("y_embedder.embedding_table.weight", &[5, 4]),
        ("pos_embed", &[1, 4, 3]),
        ("cls_token", &[1, 1, 3]),
    ] {
        vb.get_with_hints(shape, name, one).unwrap();
    }
    let zeros = params.vars().into_iter().map(|(name, var)| (name, var.zeros_like().unwrap())).collect();
    let grads = Gradients::from_tensors(params.vars(), &zeros).unwrap();
    (params, grads)
}

#[test]
fn weight_decay_can_be_limited_to_matrices() {
    for (decay, fused) in [(Decay::All, true), (Decay::Matrices, true), (Decay::Matrices, false)] {
        let (params, grads) = resting();
        let config = AdamWConfig { lr: 0.5, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.5, decay };
        let make = if fused { AdamW::new } else { AdamW::new_plain };
        let mut emas = [Ema::new(&params, 0.9).unwrap()];
        make(&params, config).unwrap().step(&grads, 1.0, &mut emas).unwrap();
        let moved: Vec<String> = params.vars().into_iter().filter(|(_, v)| numbers(v)[0] != 1.0).map(|x| x.0).collect();
        match decay {
            Decay::All => assert_eq!(moved.len(), 7),
            Decay::Matrices => assert_eq!(moved, ["blocks.0.attn.qkv.weight", "x_embedder.proj.weight"]),
        }
    }
}

/// Large enough for several chunks of the fused pass.
#[test]
fn further_averages_equal_trainings_with_their_decay() {
    let shape = [257, 300];
    let run = |decays: &[f64], fused: bool| -> Vec<Vec<f32>> {
        let (params, vb) = ParamSet::init(1, DType::F32, &CPU);
        vb.get_with_hints(&shape[..], "a", Init::Randn { mean: 0.0, stdev: 1.0 }).unwrap();
        let config = AdamWConfig { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, decay: Decay::All };
        let mut optimizer = (if fused { AdamW::new } else { AdamW::new_plain })(&params, config).unwrap();
        let mut emas: Vec<Ema> = decays.iter().map(|d| Ema::new(&params, *d).unwrap()).collect();
        for step in 0..3 {
            let grad = rng::normal_rows(2, Purpose::Probe, step, &[0], &shape, &CPU).unwrap().get(0).unwrap();
            let grads = Gradients::from_tensors(params.vars(), &[("a".to_string(), grad)].into()).unwrap();
            optimizer.step(&grads, 1.0, &mut emas).unwrap();
        }
        emas.iter().map(|e| numbers(&e.tensors()["a"])).collect()
    };
    let together = run(&[0.9, 0.5, 0.99], true);
    for (decay, average) in [0.9, 0.5, 0.99].iter().zip(&together) {
        assert!(run(&[*decay], true)[0] == *average, "the average with decay {decay}");
    }
    let plain = run(&[0.9, 0.5], false);
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart(&plain[0], &together[0]) < 1e-5 && apart(&plain[1], &together[1]) < 1e-5);
    assert!(apart(&plain[0], &plain[1]) > 1e-2);
    let (params, grads) = resting();
    let config = AdamWConfig { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, decay: Decay::All };
    assert!(AdamW::new(&params, config).unwrap().step(&grads, 1.0, &mut []).is_err());
}

fn train_with(lab: &Lab, work: &str, changes: Value) -> PathBuf {
    lab.run(&train::KIND, work, changes, &lab.data(), &Ear::default()).unwrap_or_else(|e| panic!("{work}: {e}"));
    lab.artifact(work, "sit")
}

#[test]
fn every_option_changes_the_training() {
    let lab = Lab::new();
    let ema = |dir: &PathBuf| std::fs::read(dir.join("ema.safetensors")).unwrap();
    let base = ema(&train_with(&lab, "base", json!({})));
    let options = [
        json!({"mlp": "swiglu"}),
        json!({"projector": "conv3"}),
        json!({"qk_norm": true}),
        json!({"norm": "rms"}),
        json!({"norm": "rms", "qk_norm": true}),
        json!({"rope": false}),
        json!({"encoder_depth": 2}),
        json!({"alignment_loss": "nt-xent"}),
        json!({"alignment_loss": "nt-xent", "temperature": 0.5}),
        json!({"spatial_norm": "zscore"}),
        json!({"spatial_norm": "zscore", "spatial_norm_alpha": 0.1}),
        json!({"relation": 1.0}),
        json!({"relation": 1.0, "relation_over": "tokens"}),
        json!({"dispersive": 0.5}),
        json!({"dispersive": 0.5, "dispersive_depth": 2}),
        json!({"dispersive": 0.5, "dispersive_temperature": 1.0}),
        json!({"path": "cosine"}),
        json!({"time": "lognormal"}),
        json!({"velocity_cosine": 1.0}),
        json!({"self_alignment": 1.0, "self_alignment_depth": 1, "self_alignment_teacher": 2}),
        json!({"self_alignment": 1.0, "self_alignment_depth": 2, "self_alignment_teacher": 2}),
        json!({"self_alignment": 1.0, "self_alignment_depth": 1, "self_alignment_teacher": 1}),
        json!({"self_alignment": 1.0, "self_alignment_depth": 1, "self_alignment_teacher": 2, "self_alignment_interval": 0.0}),
        json!({"latent_alignment": 1.0, "latent_alignment_depth": 1}),
        json!({"latent_alignment": 1.0, "latent_alignment_depth": 2}),
        json!({"latent_alignment": 0.5, "latent_alignment_depth": 2}),
        json!({"class_dropout": 0.9}),
        json!({"alignment": "exponential", "alignment_steps": 2}),
        json!({"alignment": "constant"}),
        json!({"alignment": "stop-at", "alignment_steps": 1}),
        json!({"lr_warmup": 2}),
        json!({"lr_schedule": "cosine"}),
        json!({"lr_schedule": "cosine", "lr_min": 5e-5}),
        json!({"weight_decay": 0.5}),
        json!({"weight_decay": 0.5, "decay": "matrices"}),
        json!({"ema_decay": 0.9}),
    ];
    let mut seen = vec![base];
    for (i, option) in options.into_iter().enumerate() {
        let bytes = ema(&train_with(&lab, &format!("s{i}"), option.clone()));
        assert!(!seen.contains(&bytes), "{option} changes nothing");
        seen.push(bytes);
    }
}

#[test]
fn every_shared_option_changes_the_warmup() {
    let lab = Lab::new();
    let run = |work: &str, changes: Value| {
        lab.run(&warmup::KIND, work, changes, &lab.data(), &Ear::default()).unwrap();
        std::fs::read(lab.artifact(work, "warmed").join("ema.safetensors")).unwrap()
    };
    let mut seen = vec![run("base", json!({}))];
    let options = [
        json!({"alignment_loss": "nt-xent"}),
        json!({"spatial_norm": "zscore"}),
        json!({"relation": 1.0}),
        json!({"relation": 1.0, "relation_over": "tokens"}),
        json!({"projector": "conv3"}),
        json!({"mlp": "swiglu"}),
        json!({"norm": "rms"}),
        json!({"lr_warmup": 2}),
    ];
    for (i, option) in options.into_iter().enumerate() {
        let bytes = run(&format!("s{i}"), option.clone());
        assert!(!seen.contains(&bytes), "{option} changes nothing");
        seen.push(bytes);
    }
    // And hands them on.
    let both = json!({"mlp": "swiglu", "projector": "conv3"});
    lab.run(&warmup::KIND, "gated", both.clone(), &lab.data(), &Ear::default()).unwrap();
    let (mut inputs, ear) = (lab.data(), Ear::default());
    inputs.push(("init", lab.artifact("gated", "warmed")));
    lab.run(&train::KIND, "on", both, &inputs, &ear).unwrap();
    assert!(ear.text().contains("tensors loaded (blocks.0, projectors.0, t_embedder"), "{}", ear.text());
}

#[test]
fn dropped_labels_train_the_null_class_and_no_other() {
    let lab = Lab::new();
    let rows = |work: &str, dropout: f64, steps: u64| {
        let sit = train_with(&lab, work, json!({"class_dropout": dropout, "steps": steps}));
        let all = params::load(&sit.join("model.safetensors"), &CPU).unwrap();
        all["y_embedder.embedding_table.weight"].to_vec2::<f32>().unwrap()
    };
    let (before, after) = (rows("before", 1.0, 0), rows("after", 1.0, 3));
    assert_eq!(before.len(), 4);
    assert_eq!(before[..3], after[..3], "every label was dropped");
    assert_ne!(before[3], after[3]);
    let (before, after) = (rows("rare before", 1e-9, 0), rows("rare after", 1e-9, 3));
    assert_eq!(before[3], after[3], "none was");
    assert_ne!(before[..3], after[..3]);
}

#[test]
fn averages_and_learning_rates_survive_a_stop() {
    let lab = Lab::new();
    let changes = json!({"checkpoint_every": 2, "steps": 6, "ema_decay": [0.5, 0.9, 0.25], "lr_schedule": "cosine",
        "lr_warmup": 2, "lr": 1e-3, "lr_min": 1e-4, "dispersive": 0.5, "weight_decay": 0.1, "decay": "matrices",
        "self_alignment": 0.5, "self_alignment_depth": 1, "self_alignment_teacher": 2,
        "latent_alignment": 1.0, "latent_alignment_depth": 2});
    let whole = train_with(&lab, "whole", changes.clone());
    let ear = Ear { stop_at_checkpoint: true, ..Ear::default() };
    let error = lab.run(&train::KIND, "cut", changes.clone(), &lab.data(), &ear).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Suspended);
    let cut = train_with(&lab, "cut", changes);
    for file in ["model", "ema", "ema-0.9", "ema-0.25"].map(|f| format!("{f}.safetensors")) {
        let bytes = |dir: &PathBuf| std::fs::read(dir.join(&file)).unwrap();
        assert!(bytes(&whole) == bytes(&cut), "{file}");
    }
    let curve = std::fs::read_to_string(whole.join("curve.jsonl")).unwrap();
    assert_eq!(curve, std::fs::read_to_string(cut.join("curve.jsonl")).unwrap());
    let points: Vec<Value> = curve.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let rates: Vec<f64> = points.iter().map(|p| p["lr"].as_f64().unwrap()).collect();
    assert_eq!(rates[..3], [5e-4, 1e-3, 1e-3]);
    assert!((rates[4] - 5.5e-4).abs() < 1e-12 && rates[5] < rates[4], "{rates:?}");
    assert!(points.iter().all(|p| p["parts"]["dispersive"].as_f64().unwrap() < 0.0));

    // Samples are drawn from the average that is asked for.
    let inputs = [("sit", whole), ("vae", lab.path("vae"))];
    let draw = |work: &str, weights: &str| {
        let changes = json!({"count": 2, "steps": 2, "weights": weights, "cfg_scale": 1.5});
        lab.run(&sample::KIND, work, changes, &inputs, &Ear::default())
    };
    draw("mean", "ema-0.25").unwrap();
    let meta = std::fs::read_to_string(lab.artifact("mean", "samples").join("meta.json")).unwrap();
    assert!(meta.contains("\"ema-0.25\""), "{meta}");
    let error = draw("none", "ema-0.75").unwrap_err();
    assert_eq!(error.message, "input `sit` has no weights `ema-0.75`");
    assert_eq!(error.hints, ["available weights are `ema`, `ema-0.25`, `ema-0.9`, `model`"]);
    assert_eq!(draw("bad", "emma").unwrap_err().kind, ErrorKind::Usage);
    // Or go on from it.
    let mut inputs = lab.data();
    inputs.push(("init", lab.artifact("whole", "sit")));
    let from = |work: &str, weights: &str| {
        let changes = json!({"steps": 0, "init_weights": weights});
        lab.run(&train::KIND, work, changes, &inputs, &Ear::default()).unwrap();
        std::fs::read(lab.artifact(work, "sit").join("model.safetensors")).unwrap()
    };
    assert!(from("a", "ema-0.9") != from("b", "ema"));
}

#[test]
fn defaults_depend_on_size_and_method_and_are_reported() {
    let lab = Lab::new();
    let given = |alignment: &str| {
        let ear = Ear::default();
        let changes = json!({"alignment": alignment, "steps": 1, "alignment_steps": 4});
        lab.run(&train::KIND, alignment, changes, &lab.data(), &ear).unwrap();
        let dir = lab.artifact(alignment, "sit");
        let note: Value = serde_json::from_slice(&std::fs::read(dir.join("training.json")).unwrap()).unwrap();
        let curve: Value = serde_json::from_slice(&std::fs::read(dir.join("curve.jsonl")).unwrap()).unwrap();
        (ear.text(), note["resolved"].clone(), curve["parts"]["alignment_weight"].clone())
    };
    let (said, note, weight) = given("half-life");
    assert!(said.contains("`alignment_weight` is left out; for this network and method it is 1.0"), "{said}");
    assert_eq!((note, weight), (json!({"alignment_weight": 1.0}), json!(1.0)));
    let (_, note, weight) = given("constant");
    assert_eq!((note, weight), (json!({"alignment_weight": 0.5}), json!(0.5)));
    let (said, note, weight) = given("none");
    assert!(!said.contains("left out"), "{said}");
    assert_eq!((note, weight), (Value::Null, json!(0.0)));

    let error = |changes: Value| {
        let error = lab.run(&train::KIND, "x", changes, &lab.data(), &Ear::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage, "{error}");
        error.message
    };
    assert_eq!(error(json!({"encoder_depth": null})), "`model = \"custom\"` needs `encoder_depth`");
    assert_eq!(
        error(json!({"encoder_depth": [1, 2]})),
        "`encoder_depth` has 2 blocks, but the number of artifacts of input `features` is 1"
    );
    assert_eq!(error(json!({"self_alignment": 0.2})), "`self_alignment` needs `self_alignment_depth`");
    assert_eq!(
        error(json!({"self_alignment": 0.2, "self_alignment_depth": 1, "self_alignment_teacher": 3})),
        "`self_alignment_teacher` 3 is not one of the blocks 1 to 2"
    );
    assert_eq!(error(json!({"latent_alignment": 1.0})), "`latent_alignment` needs `latent_alignment_depth`");
    assert_eq!(
        error(json!({"latent_alignment": 1.0, "latent_alignment_depth": 3})),
        "`latent_alignment_depth` 3 is not one of the blocks 1 to 2"
    );
    assert_eq!(
        error(json!({"dispersive": 0.5, "dispersive_depth": 3})),
        "`dispersive_depth` 3 is not one of the blocks 1 to 2"
    );
    assert_eq!(
        error(json!({"dispersive": 0.5, "accumulate": 2})),
        "`dispersive` compares all images of a batch, which `accumulate` 2 would split"
    );
    assert!(error(json!({"alignment_loss": "nt-xent", "accumulate": 2})).contains("`accumulate` 2 would split"));
    assert!(error(json!({"relation": 1.0, "accumulate": 2})).contains("`accumulate` 2 would split"));
    assert_eq!(error(json!({"relation": 1.0, "alignment": "none"})), "`relation` is given, but nothing is aligned");
    assert_eq!(error(json!({"ema_decay": [0.5, 0.5]})), "`ema_decay` has 0.5 twice");
    assert_eq!(error(json!({"lr_min": 1.0})), "`lr_min` 1 is above `lr` 0.0001");
    // Without alignment, its options are free: trials with and without share the rest.
    let none = json!({"alignment": "none", "alignment_loss": "nt-xent", "accumulate": 2, "encoder_depth": null});
    train_with(&lab, "free", none);
}
