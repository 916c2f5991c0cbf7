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
