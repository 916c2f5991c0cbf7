//! Validation and previews of a training, as commands of the emulated card between its steps, against
//! candle's operations on the CPU.

use super::networks::{Counting, config, move_away, network};
use super::support::card;
use super::training::{ADAMW, Until, bits, feed_of, micro_batches, small};
use crate::support::space::Space;
use candle_core::{DType, Device, Tensor};
use erw::ml::data::latents::Latents;
use erw::ml::data::packed::PackedWriter;
use erw::ml::diffusion::alignment::Alignment;
use erw::ml::diffusion::interpolant::Path;
use erw::ml::gpu::sit::{Recipe, SitPrograms, memory};
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit::{SiT, SiTConfig};
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::nn::params::{ParamSet, Tensors};
use erw::ml::nn::precision::Precision;
use erw::ml::rng::{self, Purpose};
use erw::ml::train::config::FitConfig;
use erw::ml::train::outcome::{Outcome, Trained};
use erw::ml::train::sit::gpu::GpuEngine;
use erw::ml::train::sit::preview::Preview;
use erw::ml::train::sit::validation::Validation;
use erw::ml::train::{Callbacks, Losses, fit_engine};
use erw::stages::training::gpu::{Opened, Training};
use erw::stages::training::watched::{self, Watched};
use erw_gpu::machine::Machine;
use erw_gpu::program::Type;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const CPU: Device = Device::Cpu;

/// Five latents of these networks.
fn latents(space: &Space) -> Latents {
    let rows: Vec<u64> = (0..5).collect();
    let normal = |tag| rng::normal_rows(tag, Purpose::Probe, 0, &rows, &[4, 8, 8], &CPU).unwrap();
    let labels = Tensor::from_iter((0..5i64).map(|i| i % 3), &CPU).unwrap();
    let std = (normal(8).abs().unwrap() * 0.1).unwrap();
    let all = [("mean".to_string(), normal(9)), ("std".to_string(), std), ("labels".to_string(), labels)];
    let meta = json!({"channels": 4, "height": 8, "width": 8, "scaling_factor": 0.9, "shift_factor": 0.1,
        "classes": ["zero", "one", "two"]});
    let mut writer = PackedWriter::create(&space.path("latents"), "latents", 5).unwrap();
    writer.push(&all.into()).unwrap();
    writer.finish(&meta).unwrap();
    Latents::open(&space.path("latents")).unwrap()
}

fn decoder() -> AutoencoderKl {
    let (weights, vb) = ParamSet::init(3, DType::F32, &CPU);
    let vae = AutoencoderKl::new(&VaeConfig::rgb(&[8, 16], 1, 4, 4, true), vb).unwrap();
    move_away(&weights);
    vae
}

fn trained_on(card: Arc<dyn Machine>, recipe: &Recipe) -> Training {
    let programs = SitPrograms::on(&*card, recipe).unwrap();
    Training { opened: Opened { machine: card, link: None }, programs }
}

/// Four steps in two micro-batches.
fn train(training: &Training, model: &SiT, params: &ParamSet, watch: &mut Callbacks) -> Trained {
    let dir = tempfile::TempDir::new().unwrap();
    let cfg = FitConfig {
        optimizer: ADAMW,
        ema_decays: vec![0.9, 0.5],
        accumulate: 2,
        ..FitConfig::new(4, 1e-3, &dir.path().join("checkpoints"))
    };
    let mut feeder = |step, micro| Ok(feed_of(model.config(), step, micro));
    let (machine, start) = (&*training.opened.machine, params.tensors());
    let mut engine = GpuEngine::new(machine, &training.programs, model, &start, &cfg, None, &mut feeder).unwrap();
    match fit_engine(&mut engine, &cfg, &Until::new(None), watch).unwrap() {
        Outcome::Done(trained) => trained,
        _ => panic!("the training did not finish"),
    }
}

fn assert_near(what: &str, got: &Losses, want: &Losses, bound: f64) {
    assert_eq!(got.len(), want.len());
    for ((name, got), (of, want)) in got.iter().zip(want) {
        assert_eq!(name, of);
        assert!((got - want).abs() < bound * want.abs(), "{what}: {name} is {got}, not {want}");
    }
}

/// By two at a time, so that the last batch is smaller; once where the step's results have more memory
/// than validation and previews take, and once where these have more.
#[test]
fn between_steps_a_training_sees_what_the_cpu_would_and_goes_on_as_if_nobody_had_looked() {
    let space = Space::new("");
    let latents = latents(&space);
    let v = Validation::new(&latents, 5, 1, 2, &CPU).unwrap();
    let many_tokens = SiTConfig { patch_size: 1, rope: true, qk_norm: true, ..small() };
    let narrow = SiTConfig { hidden: 24, heads: 2, depth: 1, projector_dim: 8, ..small() };
    let vae = decoder();
    for (config, ty, bound, shows) in [
        (&many_tokens, Type::F32, 1e-4, false),
        (&many_tokens, Type::Bf16, 2e-2, false),
        (&narrow, Type::F32, 1e-4, true),
    ] {
        let (params, model) = network(config, Precision::F32);
        let plain = train(&trained_on(card(), &micro_batches(config, ty)), &model, &params, &mut Callbacks::default());

        let points = watched::points(true, 2, shows);
        let between = watched::memory(config, points, Some(&vae).filter(|_| shows), ty).unwrap();
        let recipe = Recipe { between, ..micro_batches(config, ty) };
        assert_eq!(memory(&recipe).unwrap() > memory(&micro_batches(config, ty)).unwrap(), shows, "{ty:?}");
        let counting = Counting::new(card());
        let taken = counting.counter();
        let training = trained_on(Arc::new(counting), &recipe);
        let here = Watched::new(&model, points, Some(&training), &CPU).unwrap();
        let there = Watched::new(&model, points, None, &CPU).unwrap();
        let plan = watched::decoder(&vae, config);
        let at = training.programs.between(if shows { plan.memory().unwrap() } else { 0 }).unwrap();
        let decoded = plan.at(training.opened.machine.clone(), at).unwrap().elsewhere();
        let preview = |vae| Preview { config, decoder: Some((vae, CPU)), path: Path::Linear, seed: 1, device: CPU };
        let (on_card, on_cpu) = (preview(decoder().decoded_by(decoded)), preview(decoder()));
        let (mut looks, mut sheets) = (0, 0);
        let validate = |weights: &Tensors| {
            let got = here.velocity(weights, |f| v.velocity(Path::Linear, f))?;
            let want = there.velocity(weights, |f| v.velocity(Path::Linear, f))?;
            assert_near(&format!("{ty:?}"), &got, &want, bound);
            looks += 1;
            Ok(got)
        };
        let show = |step: u64, weights: &Tensors| {
            let got = here.velocity(weights, |f| on_card.sheet(f)).unwrap();
            let want = there.velocity(weights, |f| on_cpu.sheet(f)).unwrap();
            let off = got.data.iter().zip(&want.data).map(|(a, b)| a.abs_diff(*b)).max();
            // Rounding may fall on the other side of a level.
            assert!(off <= Some(1), "step {step}: off by {off:?}");
            assert_ne!(want.data.iter().min(), want.data.iter().max());
            sheets += 1;
        };
        let mut watch = Callbacks {
            validate: Some((2, Box::new(validate))),
            show: shows.then_some((3, Box::new(show))),
            ..Callbacks::default()
        };
        let watched = train(&training, &model, &params, &mut watch);
        drop(watch);
        assert_eq!((looks, sheets), (4, if shows { 2 } else { 0 }));
        assert!(bits(&watched) == bits(&plain), "{ty:?}: the training is another");
        assert_eq!(taken.load(Relaxed), memory(&recipe).unwrap());
        assert!(training.programs.between(between + 1).is_err());
    }
}

/// Two encoders, both kinds of projectors.
#[test]
fn projections_of_a_warmup_between_steps_equal_those_of_the_cpu() {
    let space = Space::new("");
    let latents = latents(&space);
    let v = Validation::new(&latents, 5, 1, 2, &CPU).unwrap();
    let base = SiTConfig { z_dims: vec![128, 48], encoder_depth: vec![2], warmup_depth: Some(2), ..config() };
    for (projector, ty, bound) in [
        (ProjectorKind::Mlp, Type::F32, 1e-4),
        (ProjectorKind::Conv3, Type::F32, 1e-4),
        (ProjectorKind::Mlp, Type::Bf16, 2e-2),
    ] {
        let config = SiTConfig { projector, qk_norm: true, ..base.clone() };
        let (params, model) = network(&config, Precision::F32);
        let points = watched::points(true, 2, false);
        let between = watched::memory(&config, points, None, ty).unwrap();
        let plain = train(&trained_on(card(), &micro_batches(&config, ty)), &model, &params, &mut Callbacks::default());
        let training = trained_on(card(), &Recipe { between, ..micro_batches(&config, ty) });
        let here = Watched::new(&model, points, Some(&training), &CPU).unwrap();
        let there = Watched::new(&model, points, None, &CPU).unwrap();
        let features = |rows: &[u64]| {
            let of = |z: &usize| rng::normal_rows(2, Purpose::Probe, *z as u64, rows, &[config.tokens(), *z], &CPU);
            config.z_dims.iter().map(of).collect()
        };
        let validate = |weights: &Tensors| {
            let got = here.projections(weights, |f| v.alignment(&Alignment::COSINE, features, f))?;
            let want = there.projections(weights, |f| v.alignment(&Alignment::COSINE, features, f))?;
            assert!((got[0].1 - want[0].1).abs() < bound, "{projector:?} {ty:?}: {got:?}, not {want:?}");
            Ok(got)
        };
        let mut watch = Callbacks { validate: Some((2, Box::new(validate))), ..Callbacks::default() };
        let watched = train(&training, &model, &params, &mut watch);
        drop(watch);
        assert!(bits(&watched) == bits(&plain), "{projector:?} {ty:?}: the training is another");
        assert_eq!(watched.validation.len(), 2);
        assert!(here.velocity(&params.tensors(), |_| Ok(())).is_err());
    }
}
