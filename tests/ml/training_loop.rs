//! The training loop: a resumed run equals an uninterrupted one, threads change nothing, and errors
//! name their cause.

use crate::ml::sit::tiny;
use candle_core::{DType, Device, Result, Tensor};
use erw::ml::diffusion::interpolant::{Path, TimeDistribution};
use erw::ml::diffusion::loss;
use erw::ml::models::sit::{SiT, SiTConfig};
use erw::ml::nn::params::{ParamSet, Tensors};
use erw::ml::observer::{Observer, Silent};
use erw::ml::ranks::Ranks;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::train::adamw::{AdamWConfig, Decay};
use erw::ml::train::config::{FitConfig, StepLoss};
use erw::ml::train::lr::LrSchedule;
use erw::ml::train::outcome::{Outcome, Trained};
use erw::ml::train::{Callbacks, CheckpointRetention, batch_indices, fit};
use std::cell::{Cell, RefCell};
use tempfile::TempDir;

const CPU: Device = Device::Cpu;

pub fn config(dir: &TempDir, steps: u64) -> FitConfig {
    FitConfig {
        steps,
        optimizer: AdamWConfig { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, decay: Decay::All },
        max_grad_norm: 1.0,
        ema_decays: vec![0.9],
        lr: LrSchedule::default(),
        accumulate: 1,
        ranks: Ranks::default(),
        checkpoint_every: 0,
        log_every: 1,
        checkpoint_dir: dir.path().join("checkpoints"),
        keep: CheckpointRetention::default(),
        samples: 0,
        loss_scaling: false,
    }
}

/// Full training of a tiny SiT on eight latents. `batch` samples per step in `accumulate`
/// micro-batches.
pub struct Toy {
    pub model: SiT,
    pub params: ParamSet,
    pub batch: usize,
    pub accumulate: usize,
    pub device: Device,
}

impl Toy {
    pub fn new(batch: usize, accumulate: usize) -> Self {
        Self::with_side(4, batch, accumulate, &CPU)
    }

    pub fn on(device: &Device) -> Self {
        Self::with_side(4, 4, 2, device)
    }

    /// On latents of another side.
    fn with_side(input_size: usize, batch: usize, accumulate: usize, device: &Device) -> Self {
        let config = SiTConfig { hidden: 48, input_size, ..tiny(None) };
        let (params, vb) = ParamSet::init(1, DType::F32, device);
        Self { model: SiT::new(&config, vb).unwrap(), params, batch, accumulate, device: device.clone() }
    }

    pub fn loss(&self, step: u64, micro: usize) -> Result<StepLoss> {
        let ids = batch_indices(1, step, micro, self.accumulate, self.batch, 8);
        let (share, device) = (self.batch / self.accumulate, &self.device);
        let (side, tokens) = (self.model.config().input_size, self.model.config().tokens());
        let slots: Vec<u64> = (0..share).map(|i| (micro * share + i) as u64).collect();
        let x = rng::normal_rows(2, Purpose::Probe, 0, &ids, &[4, side, side], device)?;
        let features = rng::normal_rows(3, Purpose::Probe, 0, &ids, &[tokens, 10], device)?;
        let noise = rng::normal_rows(1, Purpose::Noise, step, &slots, &[4, side, side], device)?;
        let t = TimeDistribution::Uniform.draw(Path::Linear, 1, step, &slots);
        let (point, target) = Path::Linear.point_and_velocity(&x, &noise, &t)?;
        let y: Vec<u32> = ids.iter().map(|i| (*i % 6) as u32).collect();
        let (v, z) = self.model.forward(&point, &Tensor::new(t, device)?, &Tensor::new(y, device)?)?;
        let (velocity, align) = (loss::velocity(&v, &target)?, loss::alignment(&[features], &z)?);
        let parts = vec![("velocity", f64::from(velocity.to_scalar::<f32>()?))];
        Ok(StepLoss { loss: (velocity + align)?, parts })
    }

    pub fn fit(&self, cfg: &FitConfig, obs: &dyn Observer) -> Result<Outcome> {
        let cfg = FitConfig { accumulate: self.accumulate, ..cfg.clone() };
        fit(&self.params, &cfg, obs, &mut Callbacks::default(), &mut |step, micro| self.loss(step, micro))
    }

    pub fn finish(&self, cfg: &FitConfig) -> Trained {
        match self.fit(cfg, &Silent).unwrap() {
            Outcome::Done(trained) => trained,
            Outcome::Stopped | Outcome::Followed => panic!("nobody asked to stop"),
            Outcome::Diverged(d) => panic!("{}", d.what),
        }
    }
}

/// Every bit of the weights and averages.
pub fn bits(trained: &Trained) -> Vec<(String, Vec<u32>)> {
    let of = |tensors: &Tensors| {
        let numbers =
            |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
        tensors.iter().map(|(name, t)| (name.clone(), numbers(t))).collect::<Vec<_>>()
    };
    [of(&trained.model), of(&trained.ema)].concat()
}

/// Stops after `at` steps; notes what it hears.
#[derive(Default)]
pub struct Stopper {
    pub at: u64,
    pub done: Cell<u64>,
    pub heard: RefCell<Vec<String>>,
}

impl Observer for Stopper {
    fn progress(&self, done: u64, _: u64) {
        self.done.set(done);
    }
    fn metric(&self, step: u64, name: &str, _: f64) {
        self.heard.borrow_mut().push(format!("{name} {step}"));
    }
    fn checkpointed(&self, step: u64) {
        self.heard.borrow_mut().push(format!("checkpointed {step}"));
    }
    fn resumed(&self, step: u64) {
        self.heard.borrow_mut().push(format!("resumed {step}"));
    }
    fn log(&self, text: &str) {
        self.heard.borrow_mut().push(text.to_string());
    }
    fn should_stop(&self) -> bool {
        self.done.get() == self.at
    }
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let whole = Toy::new(4, 2).finish(&config(&one, 10));
    let stopper = Stopper { at: 5, ..Stopper::default() };
    assert!(matches!(Toy::new(4, 2).fit(&config(&two, 10), &stopper).unwrap(), Outcome::Stopped));
    assert!(stopper.heard.borrow().contains(&"checkpointed 5".to_string()));
    // A new process: new parameters, everything from the checkpoint.
    let second = Stopper { at: 99, ..Stopper::default() };
    let Outcome::Done(resumed) = Toy::new(4, 2).fit(&config(&two, 10), &second).unwrap() else { panic!("stopped") };
    assert_eq!(second.heard.borrow()[0], "resumed 5");
    assert!(second.heard.borrow().contains(&"loss 6".to_string()));
    assert_eq!(bits(&whole), bits(&resumed));
    assert_eq!(whole.curve, resumed.curve);
    assert_eq!(whole.curve.iter().map(|p| p.step).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_killed_run_repeats_the_steps_after_its_checkpoint() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let whole = Toy::new(4, 1).finish(&config(&one, 7));
    let toy = Toy::new(4, 1);
    let cfg = FitConfig { checkpoint_every: 2, ..config(&two, 7) };
    let died = fit(&toy.params, &cfg, &Silent, &mut Callbacks::default(), &mut |step, micro| {
        if step == 5 { candle_core::bail!("killed") } else { toy.loss(step, micro) }
    });
    assert!(died.is_err());
    let files: Vec<_> = std::fs::read_dir(&cfg.checkpoint_dir).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["step-000000000004.safetensors"], "the older checkpoint is gone, no temporary file stays");
    let again = Toy::new(4, 1).finish(&cfg);
    assert_eq!(bits(&whole), bits(&again));
    assert_eq!(whole.curve, again.curve);
}

#[test]
fn a_damaged_checkpoint_is_skipped() {
    let dir = TempDir::new().unwrap();
    let cfg = config(&dir, 3);
    std::fs::create_dir_all(&cfg.checkpoint_dir).unwrap();
    std::fs::write(cfg.checkpoint_dir.join("step-000000000002.safetensors"), b"torn").unwrap();
    let stopper = Stopper { at: 99, ..Stopper::default() };
    assert!(matches!(Toy::new(2, 1).fit(&cfg, &stopper).unwrap(), Outcome::Done(_)));
    assert!(stopper.heard.borrow()[0].contains("damaged checkpoint"));
    assert!(stopper.heard.borrow().contains(&"loss 1".to_string()));
}

#[test]
fn a_flipped_bit_in_a_checkpoint_is_noticed() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let whole = Toy::new(2, 1).finish(&config(&one, 3));
    let cfg = config(&two, 3);
    Toy::new(2, 1).fit(&cfg, &Stopper { at: 2, ..Stopper::default() }).unwrap();
    let path = cfg.checkpoint_dir.join("step-000000000002.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() * 3 / 4;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let stopper = Stopper { at: 99, ..Stopper::default() };
    let Outcome::Done(again) = Toy::new(2, 1).fit(&cfg, &stopper).unwrap() else { panic!("stopped") };
    assert!(stopper.heard.borrow()[0].contains("contents do not match their digest"), "{:?}", stopper.heard.borrow());
    assert_eq!(bits(&whole), bits(&again));
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let dir = TempDir::new().unwrap();
    let stopper = Stopper { at: 1, ..Stopper::default() };
    Toy::new(2, 1).fit(&config(&dir, 3), &stopper).unwrap();
    let (params, vb) = ParamSet::init(1, DType::F32, &CPU);
    SiT::new(&tiny(None), vb).unwrap();
    let mut loss = |_, _| candle_core::bail!("not reached");
    let error = fit(&params, &config(&dir, 3), &Silent, &mut Callbacks::default(), &mut loss).err().unwrap();
    assert!(error.to_string().contains("another model"), "{error}");
}

#[test]
fn threads_change_nothing() {
    let run = |threads: usize| {
        let dir = TempDir::new().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // 1024 rows of tokens: every kernel has many tasks.
        pool.install(|| bits(&Toy::with_side(32, 4, 1, &CPU).finish(&config(&dir, 2))))
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn micro_batches_equal_the_whole_batch() {
    let losses = |accumulate: usize| {
        let dir = TempDir::new().unwrap();
        let curve = Toy::new(4, accumulate).finish(&config(&dir, 3)).curve;
        curve.into_iter().map(|p| [p.loss, p.grad_norm, p.parts["velocity"]]).collect::<Vec<_>>()
    };
    for (whole, split) in losses(1).into_iter().flatten().zip(losses(2).into_iter().flatten()) {
        assert!((whole - split).abs() < 1e-5 * whole.abs().max(1.0), "{whole} against {split}");
    }
}

#[test]
fn training_learns() {
    let dir = TempDir::new().unwrap();
    let curve = Toy::new(8, 1).finish(&config(&dir, 60)).curve;
    let mean = |points: &[erw::ml::train::CurvePoint]| points.iter().map(|p| p.loss).sum::<f64>() / points.len() as f64;
    let (start, end) = (mean(&curve[..10]), mean(&curve[50..]));
    assert!(end < start - 0.5, "loss went from {start} to {end}");
}

#[test]
fn zero_steps_return_the_initial_values() {
    let dir = TempDir::new().unwrap();
    let toy = Toy::new(2, 1);
    let trained = toy.finish(&config(&dir, 0));
    assert!(trained.curve.is_empty());
    let fresh = Toy::new(2, 1).params.tensors();
    for (name, t) in &trained.ema {
        let apart = (t - &fresh[name]).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(apart, 0.0, "{name}");
    }
}

#[test]
fn a_nan_loss_stops_the_run_and_keeps_the_checkpoint() {
    let dir = TempDir::new().unwrap();
    let toy = Toy::new(2, 1);
    let cfg = FitConfig { checkpoint_every: 2, ..config(&dir, 9) };
    let ended = fit(&toy.params, &cfg, &Silent, &mut Callbacks::default(), &mut |step, micro| {
        let out = toy.loss(step, micro)?;
        Ok(if step == 3 { StepLoss { loss: (out.loss * f64::NAN)?, ..out } } else { out })
    });
    let Outcome::Diverged(d) = ended.unwrap() else { panic!("went on") };
    assert_eq!(d.what, "the loss is NaN at step 3 (counted from 0)");
    let kept = cfg.checkpoint_dir.join("step-000000000002.safetensors");
    assert!(kept.exists());
    assert_eq!(d.checkpoint, Some((2, kept)));
}

#[test]
fn a_parameter_without_a_gradient_is_named() {
    let dir = TempDir::new().unwrap();
    let toy = Toy::new(2, 1);
    let error = fit(&toy.params, &config(&dir, 2), &Silent, &mut Callbacks::default(), &mut |_, _| {
        let x = Tensor::zeros((1, 4, 4, 4), DType::F32, &CPU)?;
        let z = toy.model.projections(&x, &Tensor::new(&[0f32], &CPU)?, &Tensor::new(&[0u32], &CPU)?)?;
        Ok(StepLoss { loss: z[0].sqr()?.mean_all()?, parts: vec![] })
    });
    let error = error.err().unwrap().to_string();
    assert!(error.contains("blocks.2.attn.qkv.weight") && error.contains("final_layer.linear.bias"), "{error}");
    assert!(!error.contains("blocks.0"), "{error}");
}

#[test]
fn epochs_are_permutations_and_batches_cross_them() {
    let all: Vec<u64> = (0..6).flat_map(|step| batch_indices(3, step, 0, 1, 5, 10)).collect();
    for epoch in all.chunks(10) {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
    }
    assert_ne!(all[..10], all[10..20]);
    // Batches of 4 out of 10: the third takes two of the next epoch; micro-batches are shares of
    // it.
    let third = batch_indices(3, 2, 0, 1, 4, 10);
    assert_eq!(third, all[8..12]);
    let shares: Vec<u64> = (0..2).flat_map(|micro| batch_indices(3, 2, micro, 2, 4, 10)).collect();
    assert_eq!(shares, third);
}
