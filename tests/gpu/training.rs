//! A SiT's training step as commands of the emulated card, against candle's operations on the CPU.

use super::networks::{Counting, config, network, normal};
use super::reduction::HostLink;
use super::support::card;
use crate::support::ranks::with_exchanges;
use candle_core::{DType, Device, Tensor};
use erw::ml::diffusion::alignment::{Alignment, AlignmentLoss, SpatialNorm};
use erw::ml::diffusion::loss::{self, Dispersion};
use erw::ml::gpu::sit::{Recipe, SitPrograms, memory};
use erw::ml::kernels::autograd::gradients;
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit::{Also, MlpKind, NormKind, SavedActivations, SiT, SiTConfig};
use erw::ml::nn::params::Tensors;
use erw::ml::nn::precision::Precision;
use erw::ml::observer::Observer;
use erw::ml::ranks::Ranks;
use erw::ml::train::adamw::{AdamWConfig, Decay};
use erw::ml::train::config::{FitConfig, StepLoss};
use erw::ml::train::engine::{Engine, StepGradients};
use erw::ml::train::outcome::{Outcome, Trained};
use erw::ml::train::sit::gpu::{Feed, GpuEngine};
use erw::ml::train::{Callbacks, fit, fit_engine};
use erw_gpu::machine::{Link, Machine};
use erw_gpu::program::Type;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tempfile::TempDir;

const CPU: Device = Device::Cpu;
const BATCH: usize = 2;
const WEIGHT: f64 = 0.5;

/// A head of 64 and two blocks, for whole trainings.
pub fn small() -> SiTConfig {
    SiTConfig {
        hidden: 64,
        heads: 1,
        depth: 2,
        z_dims: vec![32],
        projector_dim: 32,
        encoder_depth: vec![1],
        ..config()
    }
}

pub const ADAMW: AdamWConfig =
    AdamWConfig { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, decay: Decay::Matrices };

fn with_class_token(config: &SiTConfig) -> SiTConfig {
    SiTConfig { class_token: config.z_dims.first().copied(), ..config.clone() }
}

fn dispersion(block: usize) -> Option<Dispersion> {
    Some(Dispersion { weight: 0.5, block, temperature: 0.5 })
}

fn recipe(config: &SiTConfig, ty: Type) -> Recipe {
    Recipe { averages: 2, ..Recipe::new(config.clone(), BATCH, ty) }
}

fn feed(config: &SiTConfig, micro: u64) -> Feed {
    let (side, tag) = (config.input_size, 10 * micro);
    let image = [BATCH, config.in_channels, side, side];
    let features =
        config.z_dims.iter().enumerate().map(|(k, z)| normal(tag + 5 + k as u64, &[BATCH, config.all_tokens(), *z]));
    Feed {
        times: Tensor::new(&[0.3f32, 0.8], &CPU).unwrap(),
        point: normal(tag + 1, &image),
        target: config.warmup_depth.is_none().then(|| normal(tag + 2, &image)),
        classes: Tensor::new(&[4u32, 1], &CPU).unwrap(),
        class_token: config.class_token.map(|z| [8, 9].map(|k| normal(tag + k, &[BATCH, z]))),
        features: features.collect(),
        alignment_weight: if config.z_dims.is_empty() { 0.0 } else { WEIGHT },
    }
}

/// The losses of a micro-batch by candle's operations: their sum, and each by its name.
fn on_the_cpu(model: &SiT, feed: &Feed, recipe: &Recipe) -> candle_core::Result<StepLoss> {
    let number = |t: &Tensor| t.to_scalar::<f32>().map(f64::from);
    let align = |projections: &[Tensor]| recipe.alignment.loss(feed.features.clone(), projections);
    let Some(target) = &feed.target else {
        let aligned = align(&model.projections(&feed.point, &feed.times, &feed.classes)?)?;
        return Ok(StepLoss { loss: (aligned * feed.alignment_weight)?, parts: vec![] });
    };
    let hidden = recipe.dispersion.map(|d| d.block);
    let class_token = feed.class_token.as_ref().map(|[point, _]| point);
    let also = Also { projections: feed.alignment_weight != 0.0, hidden, class_token, ..Also::default() };
    let out = model.forward_with(&feed.point, &feed.times, &feed.classes, &also)?;
    let mut loss = loss::velocity(&out.velocity, target)?;
    let mut parts = vec![("velocity", number(&loss)?), ("alignment_weight", feed.alignment_weight)];
    if recipe.velocity_cosine > 0.0 {
        let cosine = loss::velocity_cosine(&out.velocity, target)?;
        parts.push(("velocity_cosine", number(&cosine)?));
        loss = (loss + (cosine * recipe.velocity_cosine)?)?;
    }
    if let Some(([_, target], predicted)) = feed.class_token.as_ref().zip(out.class_velocity) {
        let class = loss::velocity(&predicted, target)?;
        parts.push(("class_velocity", number(&class)?));
        loss = (loss + (class * recipe.class_token)?)?;
    }
    let mut alignment = 0.0;
    if also.projections {
        let aligned = align(&out.projections)?;
        alignment = number(&aligned)?;
        loss = (loss + (aligned * feed.alignment_weight)?)?;
    }
    parts.push(("alignment", alignment));
    if let Some((hidden, dispersion)) = out.hidden.zip(recipe.dispersion) {
        let spread = loss::dispersive(&hidden, dispersion.temperature)?;
        parts.push(("dispersive", number(&spread)?));
        loss = (loss + (spread * dispersion.weight)?)?;
    }
    Ok(StepLoss { loss, parts })
}

fn norm(t: &Tensor) -> f64 {
    f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt()
}

fn global_norm(all: &Tensors) -> f64 {
    all.values().map(|t| norm(t).powi(2)).sum::<f64>().sqrt()
}

/// The largest relative distance of a gradient, and its name. Some gradients are 0 but for rounding
/// (a bias of all keys shifts all scores alike), so distances are relative to a hundredth of the
/// global norm at least.
fn worst(got: &Tensors, want: &Tensors) -> (f64, String) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    let least = global_norm(want) / 100.0;
    let all = want.iter().map(|(name, t)| (norm(&(&got[name] - t).unwrap()) / norm(t).max(least), name.clone()));
    all.fold((0.0, String::new()), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a })
}

/// The losses and gradients of one step on the emulated card, against those of the CPU in f32.
fn compare(what: &str, config: &SiTConfig, change: impl Fn(&mut Recipe), ty: Type, bound: f64) {
    let (params, model) = network(config, Precision::F32);
    let mut recipe = recipe(config, ty);
    change(&mut recipe);
    let StepLoss { loss, parts } = on_the_cpu(&model, &feed(config, 0), &recipe).unwrap();
    let want = gradients(params.vars(), &loss).unwrap();
    let card = card();
    let mut feeder = |_, micro: usize| Ok(feed(config, micro as u64));
    let programs = SitPrograms::on(&*card, &recipe).unwrap();
    let mut engine =
        GpuEngine::new(&*card, &programs, &model, &params.tensors(), &one_step(), None, &mut feeder).unwrap();
    engine.start().unwrap();
    // Small gradients vanish in f16 unless the loss is scaled.
    let scale = if ty == Type::F16 { 4096.0 } else { 1.0 };
    let StepGradients { losses, norm } = engine.gradients(0, 0..1, scale, &Ranks::default()).unwrap();
    let (got, loss) = (losses[0].loss / scale, f64::from(loss.to_scalar::<f32>().unwrap()));
    assert!((got - loss).abs() < bound * loss.abs(), "{what}: the loss is {got}, not {loss}");
    let got: BTreeMap<_, _> = losses[0].parts.iter().copied().collect();
    assert_eq!(got.len(), parts.len(), "{what}: {got:?}");
    for (name, part) in parts {
        assert!((got[name] - part).abs() < bound * part.abs().max(0.1), "{what}: {name} is {}, not {part}", got[name]);
    }
    let got = engine.named_gradients().unwrap();
    let got = got.into_iter().map(|(name, t)| (name, (t / scale).unwrap())).collect();
    let (error, name) = worst(&got, &want);
    assert!(error < bound, "{what} in {ty:?}: the gradient of {name} is off by {error:e}");
    let (norm, want) = (norm / scale, global_norm(&want));
    assert!((norm / want - 1.0).abs() < bound, "{what}: norm {norm} for {want}");
}

#[test]
fn gradients_of_every_switch_equal_those_of_the_cpu_in_f32() {
    let base = config();
    let none = |_: &mut Recipe| {};
    // Sums of some hundred products in another order.
    let bound = 2e-5;
    compare("plain", &base, none, Type::F32, bound);
    compare("qk-norm", &SiTConfig { qk_norm: true, ..base.clone() }, none, Type::F32, bound);
    compare("rope", &SiTConfig { rope: true, ..base.clone() }, none, Type::F32, bound);
    compare("both", &SiTConfig { rope: true, qk_norm: true, ..base.clone() }, none, Type::F32, bound);
    compare("swiglu", &SiTConfig { mlp: MlpKind::SwiGlu, mlp_ratio: 3.0, ..base.clone() }, none, Type::F32, bound);
    let rms = SiTConfig { norm: NormKind::Rms, ..base.clone() };
    compare("rms", &rms, none, Type::F32, bound);
    compare("rms, warmup", &SiTConfig { warmup_depth: Some(2), ..rms.clone() }, none, Type::F32, bound);
    let lightning =
        SiTConfig { rope: true, qk_norm: true, mlp: MlpKind::SwiGlu, mlp_ratio: 3.0, depth: 5, ..rms.clone() };
    compare("rms everywhere", &lightning, |r| r.keep = SavedActivations::Inputs, Type::F32, bound);
    compare("direction", &base, |r| r.velocity_cosine = 1.0, Type::F32, bound);
    let one = SiTConfig { patch_size: 1, input_size: 4, in_channels: 12, ..base.clone() };
    compare("direction of 12 channels", &one, |r| r.velocity_cosine = 0.3, Type::F32, bound);
    let two = SiTConfig { z_dims: vec![128, 48], encoder_depth: vec![3, 1], ..base.clone() };
    let zscore = Alignment { spatial_norm: SpatialNorm::Zscore, spatial_norm_alpha: 0.6, ..Alignment::COSINE };
    compare("two encoders", &two, |r| r.alignment = zscore, Type::F32, bound);
    let nt_xent = |r: &mut Recipe| r.alignment = Alignment { loss: AlignmentLoss::NtXent, ..zscore };
    compare("nt-xent", &two, nt_xent, Type::F32, bound);
    compare("nt-xent, warmup", &SiTConfig { warmup_depth: Some(3), ..two.clone() }, nt_xent, Type::F32, bound);
    let conv3 = SiTConfig { projector: ProjectorKind::Conv3, ..two.clone() };
    compare("conv3", &conv3, |r| r.alignment = zscore, Type::F32, bound);
    // Behind the tapped block, at one that is not tapped, and behind the last.
    for block in 1..=3 {
        compare("dispersive", &base, |r| r.dispersion = dispersion(block), Type::F32, bound);
    }
    let class_token = |r: &mut Recipe| (r.class_token, r.dispersion) = (0.3, dispersion(2));
    compare("class token", &with_class_token(&base), class_token, Type::F32, bound);
    let rms = SiTConfig { depth: 5, ..with_class_token(&SiTConfig { qk_norm: true, ..rms }) };
    let kept = |r: &mut Recipe| (r.class_token, r.keep) = (0.3, SavedActivations::Inputs);
    compare("class token, rms", &rms, kept, Type::F32, bound);
    let alone = SiTConfig { z_dims: vec![], ..base.clone() };
    compare("dispersive alone", &alone, |r| r.dispersion = dispersion(2), Type::F32, bound);
    let same = SiTConfig { z_dims: vec![128, 48], encoder_depth: vec![2], ..base.clone() };
    compare("two encoders at one block", &same, none, Type::F32, bound);
    let warmup = SiTConfig { warmup_depth: Some(2), ..base.clone() };
    compare("warmup", &warmup, none, Type::F32, bound);
    let deep = SiTConfig { depth: 5, rope: true, qk_norm: true, ..base.clone() };
    compare("checkpointing", &deep, |r| r.keep = SavedActivations::Inputs, Type::F32, bound);
    let odd = SiTConfig { hidden: 24, heads: 2, z_dims: vec![20], projector_dim: 12, ..base.clone() };
    compare("other sizes", &odd, none, Type::F32, bound);
    let odd = SiTConfig { norm: NormKind::Rms, qk_norm: true, ..odd };
    compare("rms in other sizes", &odd, none, Type::F32, bound);
}

/// Gradients in half precision are those of f32 up to rounding: 2^-8 and 2^-11 for a number, less
/// for sums.
#[test]
fn gradients_in_half_precision_equal_those_in_f32_up_to_rounding() {
    let all = SiTConfig { rope: true, qk_norm: true, ..config() };
    for (ty, bound) in [(Type::Bf16, 2e-2), (Type::F16, 2.5e-3)] {
        compare("plain", &config(), |_| {}, ty, bound);
        compare("rotary embedding and QK-norm", &all, |_| {}, ty, bound);
        let swiglu = SiTConfig { mlp: MlpKind::SwiGlu, mlp_ratio: 3.0, ..config() };
        compare("swiglu", &swiglu, |r| r.keep = SavedActivations::Inputs, ty, bound);
        compare("warmup", &SiTConfig { warmup_depth: Some(2), ..config() }, |_| {}, ty, bound);
        compare("rms", &SiTConfig { norm: NormKind::Rms, ..all.clone() }, |_| {}, ty, bound);
        compare("direction", &config(), |r| r.velocity_cosine = 1.0, ty, bound);
        compare("class token", &with_class_token(&config()), |r| r.class_token = 0.3, ty, bound);
        compare("conv3", &SiTConfig { projector: ProjectorKind::Conv3, ..config() }, |_| {}, ty, bound);
        compare("nt-xent", &config(), |r| r.alignment.loss = AlignmentLoss::NtXent, ty, bound);
        compare("dispersive", &config(), |r| r.dispersion = dispersion(2), ty, bound);
        // Heads of 72 on tensor cores.
        compare("heads of 72", &SiTConfig { hidden: 144, rope: true, ..config() }, |_| {}, ty, bound);
    }
}

fn one_step() -> FitConfig {
    let nowhere = std::path::Path::new("nowhere");
    FitConfig { optimizer: ADAMW, ema_decays: vec![0.9, 0.5], ..FitConfig::new(1, 1e-3, nowhere) }
}

/// Stops when it is asked for this many steps.
pub struct Until {
    stop: Option<u64>,
    done: Cell<u64>,
    said: Cell<usize>,
}

impl Until {
    pub fn new(stop: Option<u64>) -> Self {
        Self { stop, done: Cell::new(0), said: Cell::new(0) }
    }
}

impl Observer for Until {
    fn progress(&self, done: u64, _: u64) {
        self.done.set(done);
    }
    fn metric(&self, _: u64, _: &str, _: f64) {}
    fn checkpointed(&self, _: u64) {}
    fn resumed(&self, _: u64) {}
    fn should_stop(&self) -> bool {
        self.stop == Some(self.done.get())
    }
    fn log(&self, text: &str) {
        self.said.set(self.said.get() + usize::from(text.contains("gradients overflow in f16")));
    }
}

const STEPS: u64 = 12;

fn settings(dir: &TempDir) -> FitConfig {
    FitConfig {
        optimizer: ADAMW,
        ema_decays: vec![0.9, 0.5],
        accumulate: 2,
        ..FitConfig::new(STEPS, 1e-3, &dir.path().join("checkpoints"))
    }
}

/// The feed of a step; nothing is aligned from step 8 on.
pub fn feed_of(config: &SiTConfig, step: u64, micro: usize) -> Feed {
    let mut feed = feed(config, 2 * step + micro as u64);
    if step >= 8 {
        feed.alignment_weight = 0.0;
        feed.features.clear();
    }
    feed
}

/// A training on an emulated card. `None` if it was stopped.
fn train(cfg: &FitConfig, recipe: &Recipe, observer: &Until, change: &dyn Fn(u64, &mut Feed)) -> Option<Trained> {
    train_on(&*card(), None, cfg, recipe, observer, change)
}

fn train_on(
    card: &dyn Machine,
    link: Option<Rc<dyn Link>>,
    cfg: &FitConfig,
    recipe: &Recipe,
    observer: &Until,
    change: &dyn Fn(u64, &mut Feed),
) -> Option<Trained> {
    let (params, model) = network(&recipe.config, Precision::F32);
    let mut feeder = |step, micro| {
        let mut feed = feed_of(&recipe.config, step, micro);
        change(step, &mut feed);
        Ok(feed)
    };
    let programs = SitPrograms::on(card, recipe).unwrap();
    let mut engine = GpuEngine::new(card, &programs, &model, &params.tensors(), cfg, link, &mut feeder).unwrap();
    match fit_engine(&mut engine, cfg, observer, &mut Callbacks::default()).unwrap() {
        Outcome::Done(trained) => Some(trained),
        Outcome::Stopped | Outcome::Followed => None,
        Outcome::Diverged(what) => panic!("{what:?}"),
    }
}

pub fn bits(trained: &Trained) -> Vec<u32> {
    let all =
        trained.model.values().chain(trained.ema.values()).chain(trained.further.iter().flat_map(|f| f.1.values()));
    all.flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).map(f32::to_bits).collect()
}

pub fn micro_batches(config: &SiTConfig, ty: Type) -> Recipe {
    Recipe { micro_batches: 2, ..recipe(config, ty) }
}

/// Twelve steps in two micro-batches, the last four without alignment, whose projectors rest.
#[test]
fn a_training_in_f32_follows_that_of_the_cpu() {
    let (config, dir) = (SiTConfig { rope: true, qk_norm: true, ..small() }, TempDir::new().unwrap());
    let cfg = settings(&dir);
    let recipe = Recipe { velocity_cosine: 1.0, dispersion: dispersion(1), ..micro_batches(&config, Type::F32) };
    let got = train(&cfg, &recipe, &Until::new(None), &|_, _| {}).unwrap();
    let (params, model) = network(&config, Precision::F32);
    let mut loss = |step, micro| on_the_cpu(&model, &feed_of(&config, step, micro), &recipe);
    let other = TempDir::new().unwrap();
    let cfg = settings(&other);
    let want = match fit(&params, &cfg, &Until::new(None), &mut Callbacks::default(), &mut loss).unwrap() {
        Outcome::Done(trained) => trained,
        _ => panic!("the CPU did not finish"),
    };
    for (got, want) in got.curve.iter().zip(&want.curve) {
        assert_eq!(got.step, want.step);
        assert!((got.loss / want.loss - 1.0).abs() < 1e-4, "step {}: {} for {}", got.step, got.loss, want.loss);
        assert!((got.grad_norm / want.grad_norm - 1.0).abs() < 1e-3, "step {}", got.step);
        for (name, part) in &want.parts {
            assert!((got.parts[name] - part).abs() < 1e-4, "step {}: {name} is {}", got.step, got.parts[name]);
        }
    }
    // AdamW divides by the root of a second moment, so noise in tiny gradients moves weights by up
    // to the learning rate. Averages over all weights tell.
    for (got, want) in [(&got.model, &want.model), (&got.ema, &want.ema), (&got.further[0].1, &want.further[0].1)] {
        let moved = want.iter().map(|(name, t)| norm(&(&got[name] - t).unwrap()).powi(2)).sum::<f64>().sqrt();
        assert!(moved / global_norm(want) < 1e-4, "weights are {:e} apart", moved / global_norm(want));
    }
}

#[test]
fn a_training_that_was_cut_off_resumes_with_the_same_bits() {
    for (ty, norm) in [(Type::Bf16, NormKind::Layer), (Type::F16, NormKind::Layer), (Type::Bf16, NormKind::Rms)] {
        let config = SiTConfig { qk_norm: true, depth: 4, norm, ..small() };
        let config = if norm == NormKind::Rms { with_class_token(&config) } else { config };
        let recipe = micro_batches(&config, ty);
        let recipe = match norm {
            NormKind::Layer => recipe,
            NormKind::Rms => Recipe {
                velocity_cosine: 1.0,
                class_token: 0.3,
                dispersion: dispersion(2),
                alignment: Alignment { loss: AlignmentLoss::NtXent, ..recipe.alignment },
                ..recipe
            },
        };
        let whole = TempDir::new().unwrap();
        let cfg = FitConfig { loss_scaling: ty == Type::F16, ..settings(&whole) };
        let want = train(&cfg, &recipe, &Until::new(None), &|_, _| {}).unwrap();
        let cut = TempDir::new().unwrap();
        let cfg = FitConfig { checkpoint_dir: cut.path().join("checkpoints"), ..cfg };
        for stop in [5, 9] {
            assert!(train(&cfg, &recipe, &Until::new(Some(stop)), &|_, _| {}).is_none());
        }
        let got = train(&cfg, &recipe, &Until::new(None), &|_, _| {}).unwrap();
        assert!(bits(&got) == bits(&want), "{ty:?}");
        // With checkpointing the same kernels run on the same numbers.
        let dir = TempDir::new().unwrap();
        let cfg = FitConfig { checkpoint_dir: dir.path().join("checkpoints"), ..cfg };
        let recipe = Recipe { keep: SavedActivations::Inputs, ..recipe };
        assert!(bits(&train(&cfg, &recipe, &Until::new(None), &|_, _| {}).unwrap()) == bits(&want), "checkpointing");
    }
}

/// Each rank has a card of its own. Gradients are summed through main memory, and from card to card.
#[test]
fn any_allowed_number_of_ranks_has_the_same_bits() {
    let config = small();
    let on = |count: usize, linked: bool| {
        let dir = TempDir::new().unwrap();
        let trained = with_exchanges(count, |exchange| {
            let card = card();
            let link: Option<Rc<dyn Link>> = match linked {
                true => Some(Rc::new(HostLink { exchange: exchange.clone(), machine: card.clone() })),
                false => None,
            };
            let cfg = FitConfig { accumulate: 4, ranks: Ranks::new(exchange), ..settings(&dir) };
            let recipe = Recipe { micro_batches: 4, ranks: count, ..recipe(&config, Type::Bf16) };
            train_on(&*card, link, &cfg, &recipe, &Until::new(None), &|_, _| {}).map(|trained| bits(&trained))
        });
        assert!(trained[1..].iter().all(Option::is_none));
        trained[0].clone().unwrap()
    };
    let one = on(1, false);
    assert!(on(2, false) == one && on(4, false) == one, "through main memory");
    assert!(on(2, true) == one && on(4, true) == one, "from card to card");
}

#[test]
fn a_step_that_overflows_in_f16_is_skipped() {
    let recipe = micro_batches(&small(), Type::F16);
    let dir = TempDir::new().unwrap();
    let cfg = FitConfig { loss_scaling: true, ..settings(&dir) };
    let observer = Until::new(None);
    // Far beyond 65504 when squared and scaled.
    let huge = |step: u64, feed: &mut Feed| {
        if step == 3 {
            feed.target = Some((feed.target.as_ref().unwrap() * 1e6).unwrap());
        }
    };
    let trained = train(&cfg, &recipe, &observer, &huge).unwrap();
    assert!(observer.said.get() >= 1);
    assert!(
        trained.model.values().all(|t| t
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .all(|x| x.is_finite()))
    );
    assert!(trained.curve.iter().all(|point| point.step != 4), "the skipped step is not on the curve");
}

/// Two encoders share the space of narrow features, and the second micro-batch is fed while the first
/// is at work.
#[test]
fn features_in_f16_give_the_bits_of_the_same_numbers_in_f32() {
    let config = SiTConfig { z_dims: vec![32, 48], encoder_depth: vec![1, 2], ..small() };
    let recipe = micro_batches(&config, Type::Bf16);
    let gradients = |fed: DType| {
        let (params, model) = network(&config, Precision::F32);
        let card = card();
        let mut feeder = |_, micro: usize| {
            let mut feed = feed(&config, micro as u64);
            let rounded = |t: &Tensor| t.to_dtype(DType::F16)?.to_dtype(fed);
            feed.features = feed.features.iter().map(rounded).collect::<candle_core::Result<_>>()?;
            Ok(feed)
        };
        let programs = SitPrograms::on(&*card, &recipe).unwrap();
        let mut engine =
            GpuEngine::new(&*card, &programs, &model, &params.tensors(), &one_step(), None, &mut feeder).unwrap();
        engine.start().unwrap();
        let step = engine.gradients(0, 0..2, 1.0, &Ranks::default()).unwrap();
        let losses = step.losses.iter().map(|of| of.loss.to_bits()).collect::<Vec<_>>();
        (losses, engine.named_gradients().unwrap())
    };
    let ((losses, got), (want_losses, want)) = (gradients(DType::F16), gradients(DType::F32));
    assert_eq!(losses, want_losses);
    for (name, want) in want {
        let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits);
        assert!(bits(&got[&name]).eq(bits(&want)), "{name}");
    }
}

#[test]
fn a_training_takes_the_memory_that_was_told() {
    let config = with_class_token(&SiTConfig { norm: NormKind::Rms, ..config() });
    let recipe = Recipe { velocity_cosine: 1.0, dispersion: dispersion(2), ..recipe(&config, Type::Bf16) };
    let (params, model) = network(&recipe.config, Precision::F32);
    let card = Counting::new(card());
    let mut feeder = |_, micro: usize| Ok(feed(&recipe.config, micro as u64));
    let programs = SitPrograms::on(&card, &recipe).unwrap();
    let mut engine =
        GpuEngine::new(&card, &programs, &model, &params.tensors(), &one_step(), None, &mut feeder).unwrap();
    engine.start().unwrap();
    engine.gradients(0, 0..1, 1.0, &Ranks::default()).unwrap();
    engine.update(1e-3, 1.0).unwrap();
    assert_eq!(card.allocated(), memory(&recipe).unwrap());
    let large = |name: &str, batch: usize| {
        let config = SiTConfig::published(name, [4, 32], 1000, vec![768], 8).unwrap();
        memory(&Recipe { config, batch, averages: 1, ..recipe.clone() }).unwrap() as f64 / 1e9
    };
    // The goals for an H200: at most 40 GB, and at most 100 GB.
    assert!(large("SiT-XL/2", 64) < 40.0, "{} GB", large("SiT-XL/2", 64));
    assert!(large("SiT-XL/2", 256) < 100.0, "{} GB", large("SiT-XL/2", 256));
}
