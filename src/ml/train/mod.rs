//! The training loop, shared by all networks of the program.
//!
//! Everything that happens at step k is a function of k (data order, noise, learning rate). So a
//! checkpoint holds weights, averages, moments and the curve so far, and a killed run ends
//! with the same bits as an undisturbed one. The loop knows neither the model nor the data: an
//! [`Engine`] computes gradients and updates, an [`Observer`] receives reports, and [`Callbacks`]
//! see the weights during training.

pub mod adamw;
mod callbacks;
mod checkpoint;
pub mod config;
mod curve;
mod divergence;
pub mod ema;
pub mod engine;
pub mod lr;
pub mod outcome;
mod prefetched;
pub mod pretrain;
mod scaler;
pub mod sit;
mod snapshots;
mod spikes;
mod state;
mod throughput;

use crate::kernels::autograd::Gradients;
use crate::nn::params::ParamSet;
use crate::observer::Observer;
use crate::rng;
use candle_core::{Result, bail};
pub use checkpoint::{SavedWeights, saved_weights};
pub use config::CheckpointRetention;
use config::{FitConfig, StepLoss};
use engine::{Autograd, Engine, StepGradients};
use outcome::Outcome;
use scaler::Scaler;
use spikes::Spikes;
use state::TrainState;
use std::borrow::Borrow;
use std::sync::{Arc, Mutex, PoisonError};
use throughput::Rate;

pub use callbacks::{Callbacks, Losses, Preview, Teach, Validate, ValidationPoint};
pub use curve::CurvePoint;
pub use divergence::Divergence;
pub use prefetched::{fit_batches, with_batches};
pub use snapshots::Snapshots;

/// Trains `params`, from which the model behind `loss` was built. Resumes bit for bit from
/// `checkpoint_dir`.
///
/// `watch` is called during training. `loss` gets the step, counted from 0, and the micro-batch
/// within it.
///
/// # Errors
/// A parameter that no gradient reaches at the first step; any error that `loss` returns; a
/// checkpoint of another model; a checkpoint that cannot be written.
pub fn fit(
    params: &ParamSet,
    cfg: &FitConfig,
    obs: &dyn Observer,
    watch: &mut Callbacks,
    loss: &mut dyn FnMut(u64, usize) -> Result<StepLoss>,
) -> Result<Outcome> {
    fit_engine(&mut Autograd::new(params, cfg, loss)?, cfg, obs, watch)
}

/// [`fit`] with any engine.
pub fn fit_engine(
    engine: &mut dyn Engine,
    cfg: &FitConfig,
    obs: &dyn Observer,
    watch: &mut Callbacks,
) -> Result<Outcome> {
    let (ranks, share) = (&cfg.ranks, cfg.share()?);
    let mut state = TrainState::open(engine, cfg, obs, watch.snapshots.as_ref())?;
    let (mut spikes, rate) = (Spikes::default(), Rate::new(state.step, cfg.samples));
    while state.step < cfg.steps {
        watch.teach.as_mut().map_or(Ok(()), |teach| teach(&engine.average()?))?;
        let StepGradients { losses, norm } = engine.gradients(state.step, share.clone(), state.loss_scale(), ranks)?;
        if state.step == 0 {
            check_none_cut(&engine.unreached())?;
        }
        let point = state.point(cfg, engine::Losses::sum(losses, ranks)?, norm);
        let skipped = state.skips(&point, obs)?;
        if !skipped {
            if let Some(what) = divergence::of_step(&point, &mut || engine.named_gradients())? {
                return Ok(state.diverged(what, cfg));
            }
            state.update(engine, cfg, &point)?;
            if let Some(spike) = spikes.look(&point) {
                obs.log(&spike.to_string());
            }
        }
        let done = state.step;
        if ranks.leads() {
            state.validate(engine, cfg, obs, watch)?;
            state.keep_average(engine, watch)?;
        }
        obs.progress(done, cfg.steps);
        if !skipped && (done % cfg.log_every.max(1) == 0 || done == cfg.steps) {
            report(obs, &point);
            state.scaler.iter().for_each(|s| obs.metric(done, "loss_scale", s.scale()));
        }
        let due = cfg.checkpoint_every > 0 && done % cfg.checkpoint_every == 0 && done < cfg.steps;
        let stop = done < cfg.steps && ranks.any(obs.should_stop())?;
        if due || stop {
            obs.checkpointing();
            if let Some(what) = save(&mut state, engine, cfg)? {
                return Ok(state.diverged(what, cfg));
            }
            obs.checkpointed(done);
        }
        if stop {
            return Ok(Outcome::Stopped);
        }
        if ranks.leads() {
            state.show(engine, cfg, watch)?;
        }
    }
    if !ranks.leads() {
        return Ok(Outcome::Followed);
    }
    if let Some(what) = divergence::of_state(&state.snapshot(engine)?)? {
        return Ok(state.diverged(what, cfg));
    }
    if let Some(skipped) = state.scaler.as_ref().map(Scaler::skipped).filter(|n| *n > 0) {
        if skipped == cfg.steps {
            bail!("all {skipped} steps were skipped because their gradients overflowed in f16: nothing was trained");
        }
        obs.log(&format!("{skipped} of {} steps skipped because their gradients overflowed in f16", cfg.steps));
    }
    rate.summary(state.step).iter().for_each(|text| obs.log(text));
    Ok(Outcome::Done(state.finish(engine)?))
}

/// Writes a checkpoint, on the leading rank, while the others wait. Ranks whose weights differ have
/// broken hardware.
fn save(state: &mut TrainState, engine: &dyn Engine, cfg: &FitConfig) -> Result<Option<String>> {
    if cfg.ranks.size() > 1 {
        let what = format!("the weights of step {}, which only broken hardware explains", state.step);
        cfg.ranks.agree(&what, &checkpoint::digest(&engine.model()?))?;
    }
    let fault = if cfg.ranks.leads() { state.save(engine, cfg)? } else { None };
    // A rank that has come to its end may be what ends the others.
    cfg.ranks.wait()?;
    Ok(fault)
}

/// Checks that every parameter has a gradient.
///
/// # Errors
/// A parameter has none, because a layer was left out or an operation cuts the gradient. The error
/// names every such parameter.
pub fn check_reached(grads: &Gradients) -> Result<()> {
    check_none_cut(&grads.unreached())
}

fn check_none_cut<S: Borrow<str>>(cut: &[S]) -> Result<()> {
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

/// Sample indices of a micro-batch: its share of the `batch` samples of a step, which are split
/// into `accumulate` shares.
///
/// Each epoch is a permutation of 0..n. The incomplete last batch of an epoch continues into the
/// next epoch.
pub fn batch_indices(seed: u64, step: u64, micro: usize, accumulate: usize, batch: usize, n: usize) -> Vec<u64> {
    type Order = ((u64, u64, usize), Arc<Vec<u32>>);
    /// The permutation used last, with its seed, epoch and length. Cached, because making one costs
    /// more than a small step.
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
