//! The one training loop, for every network of the program.
//!
//! Everything that happens at step k is a function of k (data order, noise, learning rate), so a checkpoint is
//! weights, averages, moments and the curve so far, and a killed run ends with the same bits as an
//! undisturbed one. The loop knows neither the model nor the data: a closure gives the loss of a
//! micro-batch, an [`Observer`] hears what goes on.

mod checkpoint;
mod curve;
pub mod lr;

pub use curve::CurvePoint;

use super::backprop::Gradients;
use super::ema::Ema;
use super::optim::{AdamW, AdamWConfig, clip_factor, grad_norm};
use super::rng;
use super::weights::{ParamSet, Tensors};
use candle_core::{DType, Result, Tensor, bail};
use checkpoint::Checkpoint;
use curve::Curve;
use lr::LrSchedule;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What a loop tells the outside.
pub trait Observer {
    fn progress(&self, done: u64, total: u64);
    fn metric(&self, step: u64, name: &str, value: f64);
    /// A checkpoint is about to be written: whatever is to be as far as it must be on disk.
    fn checkpointing(&self) {}
    fn checkpointed(&self, step: u64);
    fn resumed(&self, step: u64);
    fn log(&self, text: &str);
    /// Asked after every step: whether to write a checkpoint and return.
    fn should_stop(&self) -> bool;
}

/// An observer that hears nothing and never stops.
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _: u64, _: u64) {}
    fn metric(&self, _: u64, _: &str, _: f64) {}
    fn checkpointed(&self, _: u64) {}
    fn resumed(&self, _: u64) {}
    fn log(&self, _: &str) {}
    fn should_stop(&self) -> bool {
        false
    }
}

#[derive(Debug, Clone)]
pub struct FitConfig {
    /// Optimiser updates in all, those before a resume included. 0 hands the initial values back.
    pub steps: u64,
    /// Its learning rate is the peak of the schedule.
    pub optimizer: AdamWConfig,
    pub lr: LrSchedule,
    /// Global norm to clip to; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// Decays of the averages to keep, at least one. The first is the result; the others are there to choose from.
    pub ema_decays: Vec<f64>,
    /// Micro-batches per step; their gradients are averaged.
    pub accumulate: usize,
    /// Steps between checkpoints; 0 for none but on a stop.
    pub checkpoint_every: u64,
    /// Steps between reports to the observer. Changes no result.
    pub log_every: u64,
    pub checkpoint_dir: PathBuf,
}

/// The loss of one micro-batch.
pub struct StepLoss {
    /// Scalar, the mean over the micro-batch.
    pub loss: Tensor,
    /// Named summands for the curve, the same names at every step.
    pub parts: Vec<(&'static str, f64)>,
}

pub enum Fit {
    Done(Trained),
    /// The observer asked to stop; a checkpoint lies in the checkpoint directory.
    Stopped,
}

pub struct Trained {
    /// Final values, sharing memory with the variables.
    pub model: Tensors,
    pub ema: Tensors,
    /// Averages with the other decays.
    pub further: Vec<(f64, Tensors)>,
    /// At most about a thousand points, each the mean over the steps since the one before.
    pub curve: Vec<CurvePoint>,
}

/// Trains `params`, which the model behind `loss` was built from, and resumes from `checkpoint_dir`, bit for bit.
///
/// `loss` is called with the step, from 0, and the micro-batch within it.
///
/// # Errors
/// A parameter that no gradient reaches at the first step; a loss or gradient that is not finite (the last checkpoint
/// stays); whatever `loss` returns; a checkpoint of another model.
pub fn fit(
    params: &ParamSet,
    cfg: &FitConfig,
    obs: &dyn Observer,
    loss: &mut dyn FnMut(u64, usize) -> Result<StepLoss>,
) -> Result<Fit> {
    let mut state = State::open(params, cfg, obs)?;
    let mut grads = Gradients::new(params);
    while state.step < cfg.steps {
        let sums = gradients(&mut grads, cfg, state.step, loss)?;
        if state.step == 0 {
            check_reached(&grads)?;
        }
        let point = state.update(cfg, &grads, sums)?;
        let done = state.step;
        obs.progress(done, cfg.steps);
        if done % cfg.log_every.max(1) == 0 || done == cfg.steps {
            report(obs, &point);
        }
        let due = cfg.checkpoint_every > 0 && done % cfg.checkpoint_every == 0 && done < cfg.steps;
        let stop = done < cfg.steps && obs.should_stop();
        if due || stop {
            obs.checkpointing();
            state.save(params, cfg)?;
            obs.checkpointed(done);
        }
        if stop {
            return Ok(Fit::Stopped);
        }
    }
    Ok(Fit::Done(state.finish(params)?))
}

/// All that changes from step to step besides the parameters themselves.
struct State {
    /// Steps done.
    step: u64,
    optimizer: AdamW,
    /// One a decay.
    emas: Vec<Ema>,
    curve: Curve,
}

impl State {
    fn open(params: &ParamSet, cfg: &FitConfig, obs: &dyn Observer) -> Result<Self> {
        let Some(saved) = Checkpoint::latest(&cfg.checkpoint_dir, obs)? else {
            return Ok(Self {
                step: 0,
                optimizer: AdamW::new(params, cfg.optimizer)?,
                emas: cfg.ema_decays.iter().map(|decay| Ema::new(params, *decay)).collect::<Result<_>>()?,
                curve: Curve::new(cfg.steps),
            });
        };
        let report = params.assign(&saved.model)?;
        if report.loaded.len() != params.len() {
            bail!("the checkpoint in {} is of another model: {report}", cfg.checkpoint_dir.display());
        }
        obs.resumed(saved.step);
        Ok(Self {
            step: saved.step,
            optimizer: AdamW::from_tensors(params, cfg.optimizer, saved.step, &saved.first, &saved.second)?,
            emas: emas_from(params, &cfg.ema_decays, &saved)?,
            curve: Curve::from_tensors(cfg.steps, &saved.curve)?,
        })
    }

    /// Clips, updates parameters and averages, and extends the curve. Returns this step alone as a point.
    fn update(&mut self, cfg: &FitConfig, grads: &Gradients, sums: Sums) -> Result<CurvePoint> {
        let mean = 1.0 / cfg.accumulate.max(1) as f64;
        let norm = grad_norm(grads)? * mean;
        let loss = sums.loss * mean;
        for (what, value) in [("loss", loss), ("norm of the gradient", norm)] {
            if !value.is_finite() {
                bail!("the {what} is {value} at step {} (counted from 0)", self.step);
            }
        }
        let scale = mean * clip_factor(norm, cfg.max_grad_norm);
        self.optimizer.config.lr = cfg.lr.at(self.step, cfg.steps, cfg.optimizer.lr);
        self.optimizer.step(grads, scale, &mut self.emas)?;
        self.step += 1;
        let parts = sums.parts.into_iter().map(|(name, v)| (name.to_string(), v * mean)).collect();
        let point = CurvePoint { step: self.step, loss, parts, grad_norm: norm, lr: self.optimizer.config.lr };
        self.curve.push(&point)?;
        Ok(point)
    }

    fn save(&self, params: &ParamSet, cfg: &FitConfig) -> Result<()> {
        let (first, second) = self.optimizer.moments(params)?;
        let (ema, others) = self.averages(params)?;
        let mut further = Tensors::new();
        for (i, (_, tensors)) in others.into_iter().enumerate() {
            further.extend(tensors.into_iter().map(|(name, t)| (format!("{i}/{name}"), t)));
        }
        let model = params.tensors();
        Checkpoint { step: self.step, model, ema, further, first, second, curve: self.curve.to_tensors()? }
            .save(&cfg.checkpoint_dir)
    }

    fn finish(self, params: &ParamSet) -> Result<Trained> {
        let (ema, further) = self.averages(params)?;
        Ok(Trained { model: params.tensors(), ema, further, curve: self.curve.points })
    }

    /// The first average, and the others with their decays.
    fn averages(&self, params: &ParamSet) -> Result<(Tensors, Vec<(f64, Tensors)>)> {
        let Some((first, others)) = self.emas.split_first() else { bail!("a training keeps at least one average") };
        let others = others.iter().map(|e| Ok((e.decay, e.tensors(params)?))).collect::<Result<_>>()?;
        Ok((first.tensors(params)?, others))
    }
}

/// The averages of a checkpoint, in the order of the decays.
fn emas_from(params: &ParamSet, decays: &[f64], saved: &Checkpoint) -> Result<Vec<Ema>> {
    let average = |(i, decay): (usize, &f64)| {
        let Some(i) = i.checked_sub(1) else { return Ema::from_tensors(params, *decay, &saved.ema) };
        let own = |(name, t): (&String, &Tensor)| Some((name.strip_prefix(&format!("{i}/"))?.to_string(), t.clone()));
        Ema::from_tensors(params, *decay, &saved.further.iter().filter_map(own).collect())
    };
    decays.iter().enumerate().map(average).collect()
}

/// Sums over the micro-batches of a step.
struct Sums {
    loss: f64,
    parts: Vec<(&'static str, f64)>,
}

/// Leaves the summed gradients of the micro-batches of one step in `grads`, and returns their losses.
fn gradients(
    grads: &mut Gradients,
    cfg: &FitConfig,
    step: u64,
    loss: &mut dyn FnMut(u64, usize) -> Result<StepLoss>,
) -> Result<Sums> {
    grads.clear();
    let mut sums = Sums { loss: 0.0, parts: vec![] };
    for micro in 0..cfg.accumulate.max(1) {
        let out = loss(step, micro)?;
        sums.loss += f64::from(out.loss.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        if micro == 0 {
            sums.parts = out.parts;
        } else {
            for (sum, (_, value)) in sums.parts.iter_mut().zip(out.parts) {
                sum.1 += value;
            }
        }
        grads.backward(&out.loss)?;
    }
    Ok(sums)
}

/// An error naming every parameter that has no gradient: a layer was left out, or an operation cuts the gradient.
pub fn check_reached(grads: &Gradients) -> Result<()> {
    let cut = grads.unreached();
    if !cut.is_empty() {
        bail!("no gradient reaches {}", cut.join(", "));
    }
    Ok(())
}

fn report(obs: &dyn Observer, point: &CurvePoint) {
    obs.metric(point.step, "loss", point.loss);
    for (name, value) in &point.parts {
        obs.metric(point.step, name, *value);
    }
    obs.metric(point.step, "grad_norm", point.grad_norm);
    obs.metric(point.step, "lr", point.lr);
}

/// Sample indices of a micro-batch: its share of the `batch` samples of a step, `accumulate` shares in all.
///
/// Epochs are permutations of 0..n; the last incomplete batch of one flows into the next.
pub fn batch_indices(seed: u64, step: u64, micro: usize, accumulate: usize, batch: usize, n: usize) -> Vec<u64> {
    type Order = ((u64, u64, usize), Arc<Vec<u32>>);
    /// The permutation used last, with its seed, epoch and length: making one costs more than a small step.
    static LAST: Mutex<Option<Order>> = Mutex::new(None);
    let order = |epoch: u64| {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((key, order)) if *key == (seed, epoch, n) => order.clone(),
            _ => {
                let order = Arc::new(rng::permutation(seed, epoch, n));
                *last = Some(((seed, epoch, n), order.clone()));
                order
            }
        }
    };
    if n == 0 {
        return vec![];
    }
    let share = |i: usize| batch * i / accumulate.max(1);
    (share(micro)..share(micro + 1))
        .map(|i| {
            let position = step * batch as u64 + i as u64;
            u64::from(order(position / n as u64)[(position % n as u64) as usize])
        })
        .collect()
}
