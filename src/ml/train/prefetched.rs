//! The training loop on batches that are prepared ahead of it.

use super::callbacks::Callbacks;
use super::config::{FitConfig, StepLoss};
use super::fit;
use super::outcome::Outcome;
use crate::data::prefetch::{MicroBatch, following, prefetching};
use crate::nn::params::ParamSet;
use crate::observer::Observer;
use candle_core::Result;
use std::time::Instant;

/// [`fit`] on batches that `make` prepares on another thread while the network works on the
/// previous one. Reports to the observer how long the loop waits for each batch.
pub fn fit_batches<B: Send>(
    params: &ParamSet,
    cfg: &FitConfig,
    obs: &dyn Observer,
    watch: &mut Callbacks,
    make: &(dyn Fn(MicroBatch) -> Result<B> + Sync),
    loss: &dyn Fn(u64, B) -> Result<StepLoss>,
) -> Result<Outcome> {
    with_batches(cfg, obs, make, |next| {
        let mut step_loss = |step, micro| loss(step, next(step, micro)?);
        fit(params, cfg, obs, watch, &mut step_loss)
    })
}

/// Gives `run` a function that takes the batch of a step and micro-batch, which `make` has prepared
/// on another thread. Batches are taken in order.
pub fn with_batches<B: Send, R>(
    cfg: &FitConfig,
    obs: &dyn Observer,
    make: &(dyn Fn(MicroBatch) -> Result<B> + Sync),
    run: impl FnOnce(&mut dyn FnMut(u64, usize) -> Result<B>) -> Result<R>,
) -> Result<R> {
    prefetching(make, &following(cfg.steps, cfg.share()?), |batches| {
        run(&mut |step, micro| {
            let began = Instant::now();
            let batch = batches.take((step, micro));
            obs.waited(began.elapsed());
            batch
        })
    })
}
