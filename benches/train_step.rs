//! One step of training, of warmup and of sampling a SiT at 32 x 32 x 4, in f32;
//! benches/pytorch/train_step.py does the same in PyTorch. `checkpointed-xl/2` is the largest
//! network at batch 1, in 14 GiB. With `--features cuda` there are also training steps of 64
//! samples on a GPU, in f32 (`gpu-`) and with products in bf16 (`bf16-`).
//!
//!     cargo bench --bench train_step                      # all
//!     cargo bench --bench train_step -- sit-s/2 sit-b/2   # some
//!     cargo bench --bench train_step -- memory            # peak memory over 500 steps
//!
//! A training step is the forward and backward pass of velocity and alignment loss (one projector
//! of width 2048 to 768 features, after block 4), clipping, AdamW and the moving average, as in the
//! program's own loop, on data in memory. Seconds are those of the fastest of several steps after
//! the first. Operations are the matrix products of the forward pass, twice as many for the
//! backward pass, and once more if activations are recomputed; the recomputation of scores in
//! attention is not counted.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and fails by panicking")]

mod support;

use candle_core::{DType, Device, Result, Tensor};
use erw::ml::diffusion::interpolant::Path;
use erw::ml::diffusion::loss;
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit;
use erw::ml::models::sit::{MlpKind, NormKind, SiT, SiTConfig};
use erw::ml::nn::params::{Frozen, ParamSet};
use erw::ml::nn::precision::Precision;
use erw::ml::observer::{Observer, Silent};
use erw::ml::ranks::Ranks;
use erw::ml::rng::{Purpose, normal_rows};
use erw::ml::train::adamw::{AdamWConfig, Decay};
use erw::ml::train::config::{FitConfig, StepLoss};
use erw::ml::train::lr::LrSchedule;
use erw::ml::train::outcome::Outcome;
use erw::ml::train::{CheckpointRetention, fit};
use serde_json::Value;
use std::cell::RefCell;
use std::time::Instant;

const CASES: [&str; 7] =
    ["sit-s/2", "sit-b/2", "warmup-b/2", "sample-b/2", "checkpointed-s/2", "checkpointed-b/2", "checkpointed-xl/2"];
const GPU_CASES: [&str; 5] = ["gpu-s/2", "gpu-b/2", "bf16-s/2", "bf16-b/2", "bf16-xl/2"];
const CPU: Device = Device::Cpu;
/// Asks for the peak memory of a small training instead.
const MEMORY: &str = "memory";
/// Steps after the first.
const REPEATS: u64 = 4;
const FEATURES: usize = 768;

fn main() {
    if std::env::args().any(|a| a == MEMORY) {
        return memory().unwrap();
    }
    let more: &[&str] = if cfg!(feature = "cuda") { &GPU_CASES } else { &[] };
    support::table(&[&CASES, more].concat(), "samples/s", measure);
}

/// Prints the peak of resident memory after so many steps of a small training: it must not grow.
fn memory() -> Result<()> {
    support::as_a_worker();
    let config = SiTConfig { hidden: 96, depth: 4, heads: 4, ..config("SiT-S/2", false)? };
    println!("{:>6} {:>9}", "steps", "peak MiB");
    let watch = Watch(Box::new(|done| {
        if [10, 50, 100, 200, 300, 400, 500].contains(&done) {
            println!("{done:>6} {:>9.1}", support::peak_mib());
        }
    }));
    train(&config, 4, 500, &How::default(), &watch)
}

fn measure(case: &str) -> Result<Value> {
    let (kind, size) = case.split_once('-').unwrap();
    let name = format!("SiT-{}", size.to_uppercase());
    let batch = match (kind, size) {
        ("gpu" | "bf16", _) => 64,
        (_, "s/2") => 8,
        (_, "b/2") => 4,
        _ => 1,
    };
    let config = config(&name, kind == "warmup")?;
    let whole = forward_gflop(&config, config.depth, true, true);
    let training = |how: &How| training(&config, batch, how);
    let (seconds, gflop) = match kind {
        "checkpointed" => (training(&How { keep: sit::SavedActivations::Inputs, ..How::default() })?, 4.0 * whole),
        "sample" => (sampling(&config, batch)?, forward_gflop(&config, config.depth, true, false)),
        "warmup" => (training(&How::default())?, 3.0 * forward_gflop(&config, 4, false, true)),
        "gpu" => (training(&How { gpu: true, ..How::default() })?, 3.0 * whole),
        "bf16" => (training(&How { gpu: true, precision: Precision::Bf16, ..How::default() })?, 3.0 * whole),
        _ => (training(&How::default())?, 3.0 * whole),
    };
    support::rated(seconds, gflop * batch as f64, Some(batch as f64 / seconds))
}

fn config(name: &str, warmup: bool) -> Result<SiTConfig> {
    let (hidden, depth, heads, patch_size) = SiTConfig::sizes(name)?;
    Ok(SiTConfig {
        input_size: 32,
        in_channels: 4,
        patch_size,
        hidden,
        depth,
        heads,
        mlp: MlpKind::Gelu,
        norm: NormKind::Layer,
        mlp_ratio: 4.0,
        num_classes: 1000,
        class_dropout: 0.1,
        z_dims: vec![FEATURES],
        projector: ProjectorKind::Mlp,
        projector_dim: 2048,
        encoder_depth: vec![4],
        rope: false,
        qk_norm: false,
        class_token: None,
        self_alignment: None,
        latent_alignment: None,
        warmup_depth: warmup.then_some(4),
    })
}

/// Operations of the forward pass of one sample, in 10^9.
fn forward_gflop(c: &SiTConfig, blocks: usize, last_layer: bool, projector: bool) -> f64 {
    let [d, n, patch, inner] =
        [c.hidden, c.tokens(), c.patch_size.pow(2) * c.in_channels, c.mlp_width()].map(|x| x as f64);
    let block = n * (2.0 * d * (4.0 * d + 2.0 * inner) + 4.0 * n * d) + 12.0 * d * d;
    let embedders = 2.0 * n * patch * d + 2.0 * d * (256.0 + d);
    let last = 2.0 * n * patch * d + 4.0 * d * d;
    let w = c.projector_dim as f64;
    let head = 2.0 * n * (d * w + w * w + w * FEATURES as f64);
    let when = |wanted: bool, x: f64| if wanted { x } else { 0.0 };
    (blocks as f64 * block + embedders + when(last_layer, last) + when(projector, head)) / 1e9
}

/// What does not change the work of a training step.
#[derive(Clone, Copy, Default)]
struct How {
    keep: sit::SavedActivations,
    precision: Precision,
    gpu: bool,
}

struct Data {
    point: Tensor,
    target: Tensor,
    t: Tensor,
    classes: Tensor,
    features: Tensor,
}

impl Data {
    fn new(c: &SiTConfig, batch: usize, device: &Device) -> Result<Self> {
        let slots: Vec<u64> = (0..batch as u64).collect();
        let normal = |purpose, shape: &[usize]| normal_rows(0, purpose, 0, &slots, shape, device);
        let shape = [c.in_channels, c.input_size, c.input_size];
        let (x, noise) = (normal(Purpose::Posterior, &shape)?, normal(Purpose::Noise, &shape)?);
        let t: Vec<f32> = slots.iter().map(|s| (*s as f32 + 0.5) / batch as f32).collect();
        let (point, target) = Path::Linear.point_and_velocity(&x, &noise, &t)?;
        Ok(Self {
            point,
            target,
            t: Tensor::new(t, device)?,
            classes: Tensor::new(slots.iter().map(|s| *s as u32).collect::<Vec<_>>(), device)?,
            features: normal(Purpose::Probe, &[c.tokens(), FEATURES])?,
        })
    }
}

/// Hears when steps end.
struct Watch<'a>(Box<dyn Fn(u64) + 'a>);

impl Observer for Watch<'_> {
    fn progress(&self, done: u64, _: u64) {
        (self.0)(done);
    }
    fn metric(&self, step: u64, name: &str, value: f64) {
        Silent.metric(step, name, value);
    }
    fn checkpointed(&self, step: u64) {
        Silent.checkpointed(step);
    }
    fn resumed(&self, step: u64) {
        Silent.resumed(step);
    }
    fn log(&self, text: &str) {
        Silent.log(text);
    }
    fn should_stop(&self) -> bool {
        false
    }
}

fn training(config: &SiTConfig, batch: usize, how: &How) -> Result<f64> {
    let ends = RefCell::new(vec![]);
    let watch = Watch(Box::new(|_| ends.borrow_mut().push(Instant::now())));
    train(config, batch, REPEATS + 1, how, &watch)?;
    Ok(ends.borrow().windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).fold(f64::INFINITY, f64::min))
}

fn train(config: &SiTConfig, batch: usize, steps: u64, how: &How, watch: &Watch) -> Result<()> {
    let device = if how.gpu { Device::new_cuda(0)? } else { CPU };
    let data = Data::new(config, batch, &device)?;
    let (params, vb) = ParamSet::init(0, DType::F32, &device);
    let model = SiT::new(config, vb)?.keeping(how.keep).with_precision(how.precision);
    let mut step = |_: u64, _: usize| {
        let loss = if config.warmup_depth.is_some() {
            let projections = model.projections(&data.point, &data.t, &data.classes)?;
            loss::alignment(std::slice::from_ref(&data.features), &projections)?
        } else {
            let (v, projections) = model.forward(&data.point, &data.t, &data.classes)?;
            let align = loss::alignment(std::slice::from_ref(&data.features), &projections)?;
            (loss::velocity(&v, &data.target)? + (align * 0.5)?)?
        };
        Ok(StepLoss { loss, parts: vec![] })
    };
    let fit_config = FitConfig {
        steps,
        optimizer: AdamWConfig { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, decay: Decay::All },
        lr: LrSchedule::default(),
        max_grad_norm: 1.0,
        ema_decays: vec![0.9999],
        accumulate: 1,
        ranks: Ranks::default(),
        checkpoint_every: 0,
        log_every: 1,
        checkpoint_dir: "target/no-such-checkpoints".into(),
        keep: CheckpointRetention::default(),
        samples: batch,
        loss_scaling: false,
    };
    let Outcome::Done(_) = fit(&params, &fit_config, watch, &mut erw::ml::train::Callbacks::default(), &mut step)?
    else {
        panic!("the training ended early")
    };
    Ok(())
}

/// One evaluation of the velocity, as samplers do it.
fn sampling(config: &SiTConfig, batch: usize) -> Result<f64> {
    let data = Data::new(config, batch, &CPU)?;
    let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
    SiT::new(config, vb)?;
    // As the sampler has them: no gradient is asked for.
    let frozen = Frozen::new(params.tensors().into_iter().map(|(name, t)| (name, t.detach())).collect());
    let model = SiT::new(config, frozen.builder(DType::F32, &CPU))?;
    support::best(REPEATS as usize, || model.velocity(&data.point, &data.t, &data.classes).map(drop))
}
