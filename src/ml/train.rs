//! The one training loop, for every network of the program.
//!
//! Everything that happens at step k is a function of k (data order, noise, learning rate), so a checkpoint is
//! weights, averages, moments and the curve so far, and a killed run ends with the same bits as an
//! undisturbed one. The loop knows neither the model nor the data: a closure gives the loss of a
//! micro-batch, an [`Observer`] hears what goes on.

mod checkpoint;
mod curve;
mod scaler;

pub use curve::CurvePoint;

use super::ema::Ema;
use super::optim::{AdamW, AdamWConfig, clip_factor, grad_norm};
use super::rng;
use super::weights::{ParamSet, Tensors};
use candle_core::{DType, Result, Tensor, bail};
use checkpoint::Checkpoint;
use curve::Curve;
use scaler::{Scaler, scaled};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What a loop tells the outside.
pub trait Observer {
    fn progress(&self, done: u64, total: u64);
    fn metric(&self, step: u64, name: &str, value: f64);
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
    pub optimizer: AdamWConfig,
    /// Global norm to clip to; 0 switches clipping off.
    pub max_grad_norm: f64,
    pub ema_decay: f64,
    /// Micro-batches per step; their gradients are averaged.
    pub accumulate: usize,
    /// Steps between checkpoints; 0 for none but on a stop.
    pub checkpoint_every: u64,
    /// Steps between reports to the observer. Changes no result.
    pub log_every: u64,
    pub checkpoint_dir: PathBuf,
    /// For losses computed in f16: scale them, and skip steps whose gradients overflow.
    pub loss_scaling: bool,
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
    while state.step < cfg.steps {
        let (grads, sums) = gradients(params, cfg, state.step, &mut scaled(state.loss_scale(), loss))?;
        if state.step == 0 {
            check_reached(params, &grads)?;
        }
        let point = state.update(params, cfg, &grads, sums, obs)?;
        let done = state.step;
        obs.progress(done, cfg.steps);
        if let Some(point) = point.filter(|_| done % cfg.log_every.max(1) == 0 || done == cfg.steps) {
            report(obs, &point);
            state.scaler.iter().for_each(|s| obs.metric(done, "loss_scale", s.scale()));
        }
        let due = cfg.checkpoint_every > 0 && done % cfg.checkpoint_every == 0 && done < cfg.steps;
        let stop = done < cfg.steps && obs.should_stop();
        if due || stop {
            state.save(params, cfg)?;
            obs.checkpointed(done);
        }
        if stop {
            return Ok(Fit::Stopped);
        }
    }
    if let Some(skipped) = state.scaler.as_ref().map(Scaler::skipped).filter(|n| *n > 0) {
        obs.log(&format!("{skipped} of {} steps skipped, whose gradients overflowed in f16", cfg.steps));
    }
    Ok(Fit::Done(Trained { model: params.tensors(), ema: state.ema.tensors(params)?, curve: state.curve.points }))
}

/// All that changes from step to step besides the parameters themselves.
struct State {
    /// Steps done.
    step: u64,
    optimizer: AdamW,
    ema: Ema,
    curve: Curve,
    /// With loss scaling.
    scaler: Option<Scaler>,
}

impl State {
    fn open(params: &ParamSet, cfg: &FitConfig, obs: &dyn Observer) -> Result<Self> {
        let Some(saved) = Checkpoint::latest(&cfg.checkpoint_dir, obs)? else {
            return Ok(Self {
                step: 0,
                optimizer: AdamW::new(params, cfg.optimizer)?,
                ema: Ema::new(params, cfg.ema_decay)?,
                curve: Curve::new(cfg.steps),
                scaler: cfg.loss_scaling.then(Scaler::new),
            });
        };
        let report = params.assign(&saved.model)?;
        if report.loaded.len() != params.len() {
            bail!("the checkpoint in {} is of another model: {report}", cfg.checkpoint_dir.display());
        }
        obs.resumed(saved.step);
        let scaler = if cfg.loss_scaling { Some(Scaler::from_tensors(&saved.scaler)?) } else { None };
        let updates = saved.step - scaler.as_ref().map_or(0, Scaler::skipped);
        Ok(Self {
            step: saved.step,
            optimizer: AdamW::from_tensors(params, cfg.optimizer, updates, &saved.first, &saved.second)?,
            ema: Ema::from_tensors(params, cfg.ema_decay, &saved.ema)?,
            curve: Curve::from_tensors(cfg.steps, &saved.curve)?,
            scaler,
        })
    }

    fn loss_scale(&self) -> f64 {
        self.scaler.as_ref().map_or(1.0, Scaler::scale)
    }

    /// Clips, updates parameters and averages, and extends the curve. Returns this step alone as a point; nothing if its
    /// gradients overflowed in f16, and it was skipped.
    fn update(
        &mut self,
        params: &ParamSet,
        cfg: &FitConfig,
        grads: &Tensors,
        sums: Sums,
        obs: &dyn Observer,
    ) -> Result<Option<CurvePoint>> {
        let mean = 1.0 / cfg.accumulate.max(1) as f64;
        let unscaled = mean / self.loss_scale();
        let norm = grad_norm(grads)? * unscaled;
        let loss = sums.loss * unscaled;
        if let Some(scaler) = &mut self.scaler {
            if !norm.is_finite() {
                obs.log(&scaler.back_off(self.step)?);
                self.step += 1;
                self.curve.pass(self.step);
                return Ok(None);
            }
            scaler.grow();
        }
        for (what, value) in [("loss", loss), ("norm of the gradient", norm)] {
            if !value.is_finite() {
                bail!("the {what} is {value} at step {} (counted from 0)", self.step);
            }
        }
        let scale = unscaled * clip_factor(norm, cfg.max_grad_norm);
        self.optimizer.step(params, grads, scale, &mut self.ema)?;
        self.step += 1;
        let parts = sums.parts.into_iter().map(|(name, v)| (name.to_string(), v * mean)).collect();
        let point = CurvePoint { step: self.step, loss, parts, grad_norm: norm, lr: cfg.optimizer.lr };
        self.curve.push(&point)?;
        Ok(Some(point))
    }

    fn save(&self, params: &ParamSet, cfg: &FitConfig) -> Result<()> {
        let (first, second) = self.optimizer.moments(params)?;
        let (model, ema) = (params.tensors(), self.ema.tensors(params)?);
        let scaler = self.scaler.as_ref().map_or_else(|| Ok(Tensors::new()), Scaler::to_tensors)?;
        Checkpoint { step: self.step, model, ema, first, second, curve: self.curve.to_tensors()?, scaler }
            .save(&cfg.checkpoint_dir)
    }
}

/// Sums over the micro-batches of a step.
struct Sums {
    loss: f64,
    parts: Vec<(&'static str, f64)>,
}

/// Summed gradients and losses of the micro-batches of one step.
fn gradients(
    params: &ParamSet,
    cfg: &FitConfig,
    step: u64,
    loss: &mut dyn FnMut(u64, usize) -> Result<StepLoss>,
) -> Result<(Tensors, Sums)> {
    let vars = params.vars();
    let mut grads = Tensors::new();
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
        let mut store = out.loss.backward()?;
        for (name, var) in &vars {
            let Some(grad) = store.remove(var) else { continue };
            let total = match grads.remove(name) {
                Some(so_far) => (so_far + grad)?,
                None => grad,
            };
            grads.insert(name.clone(), total);
        }
    }
    Ok((grads, sums))
}

/// An error naming every parameter that has no gradient: a layer was left out, or an operation cuts the gradient.
pub fn check_reached(params: &ParamSet, grads: &Tensors) -> Result<()> {
    let cut: Vec<String> = params.vars().into_iter().map(|(n, _)| n).filter(|n| !grads.contains_key(n)).collect();
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
