//! The loop on batches that are made ahead of it.

use super::config::{FitConfig, StepLoss};
use super::fit;
use super::hooks::Hooks;
use super::trained::Fit;
use crate::data::prefetch::{MicroBatch, following, prefetching};
use crate::nn::params::ParamSet;
use crate::observer::Observer;
use candle_core::Result;
use std::time::Instant;

/// [`fit`] with the loss of a batch that `make` makes on another thread while the network
/// is busy with the one before. The observer hears how long the loop waits for each.
pub fn fit_batches<B: Send>(
    params: &ParamSet,
    cfg: &FitConfig,
    obs: &dyn Observer,
    watch: &mut Hooks,
    make: &(dyn Fn(MicroBatch) -> Result<B> + Sync),
    loss: &dyn Fn(u64, B) -> Result<StepLoss>,
) -> Result<Fit> {
    prefetching(make, &following(cfg.steps, cfg.accumulate), |batches| {
        let mut step_loss = |step, micro| {
            let began = Instant::now();
            let batch = batches.take((step, micro));
            obs.waited(began.elapsed());
            loss(step, batch?)
        };
        fit(params, cfg, obs, watch, &mut step_loss)
    })
}
