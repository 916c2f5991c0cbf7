//! Shared by the stages that train a network: runs the training loop and reports its end.

use super::gpu::OnGpu;
use super::reporter::Reporter;
use erw_base::error::{Error, Result};
use erw_ml::data::prefetch::MicroBatch;
use erw_ml::models::sit::SiTConfig;
use erw_ml::nn::params::ParamSet;
use erw_ml::train::config::{FitConfig, StepLoss};
use erw_ml::train::outcome::{Outcome, Trained};
use erw_ml::train::sit::gpu::{Feed, GpuEngine};
use erw_ml::train::{Callbacks, Divergence, fit_batches, fit_engine, with_batches};
use erw_runner::kind::attempt::Attempt;

/// The configuration beside the checkpoints of a SiT, with which they can be exported.
pub const CONFIG_FILE: &str = "config.json";

/// Trains to the end, on batches that `make` prepares ahead of the loop, and reports to the
/// attempt. `None`: another rank has the result.
///
/// # Errors
/// [`Error::suspended`] if the attempt was asked to stop; an error with hints if the training
/// diverged.
pub fn train_on_ranks<B: Send>(
    attempt: &Attempt,
    params: &ParamSet,
    cfg: &FitConfig,
    watch: &mut Callbacks,
    make: &(dyn Fn(MicroBatch) -> candle_core::Result<B> + Sync),
    loss: &dyn Fn(u64, B) -> candle_core::Result<StepLoss>,
) -> Result<Option<Trained>> {
    let reporter = Reporter::new(attempt, cfg.samples)?;
    finished(attempt, fit_batches(params, cfg, &reporter, watch, make, loss)?, cfg)
}

/// [`train_on_ranks`] for kinds that have one rank.
pub fn train<B: Send>(
    attempt: &Attempt,
    params: &ParamSet,
    cfg: &FitConfig,
    watch: &mut Callbacks,
    make: &(dyn Fn(MicroBatch) -> candle_core::Result<B> + Sync),
    loss: &dyn Fn(u64, B) -> candle_core::Result<StepLoss>,
) -> Result<Trained> {
    let trained = train_on_ranks(attempt, params, cfg, watch, make, loss)?;
    trained.ok_or_else(|| Error::stage("this kind of stage has one rank"))
}

/// [`train_on_ranks`] on a GPU. `feed` is called with the step and one of its batches.
pub fn train_on_gpu<B: Send>(
    attempt: &Attempt,
    gpu: &OnGpu,
    params: &ParamSet,
    cfg: &FitConfig,
    watch: &mut Callbacks,
    make: &(dyn Fn(MicroBatch) -> candle_core::Result<B> + Sync),
    feed: &dyn Fn(u64, B) -> candle_core::Result<Feed>,
) -> Result<Option<Trained>> {
    let reporter = Reporter::new(attempt, cfg.samples)?;
    let outcome = with_batches(cfg, &reporter, make, |next| {
        let mut feeder = |step, micro| feed(step, next(step, micro)?);
        let mut engine = GpuEngine::new(
            &*gpu.training.opened.machine,
            &gpu.training.programs,
            gpu.model,
            &params.tensors(),
            cfg,
            gpu.training.opened.link.clone(),
            &mut feeder,
        )?;
        fit_engine(&mut engine, cfg, &reporter, watch)
    })?;
    finished(attempt, outcome, cfg)
}

fn finished(attempt: &Attempt, outcome: Outcome, cfg: &FitConfig) -> Result<Option<Trained>> {
    match outcome {
        Outcome::Done(trained) => Ok(Some(trained)),
        Outcome::Followed => Ok(None),
        Outcome::Stopped => Err(Error::suspended()),
        Outcome::Diverged(divergence) => {
            attempt.log(&format!("the training diverged: {}", divergence.what));
            Err(diverged(&divergence, cfg))
        }
    }
}

fn diverged(divergence: &Divergence, cfg: &FitConfig) -> Error {
    // Only a SiT has a configuration in this folder.
    let sit: Option<SiTConfig> =
        std::fs::read(cfg.checkpoint_dir.join(CONFIG_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let clip = if cfg.max_grad_norm > 0.0 { "a smaller `max_grad_norm`" } else { "`max_grad_norm = 1.0`" };
    let norm = if sit.as_ref().is_some_and(|c| !c.qk_norm) { ", or `qk_norm = true`" } else { "" };
    let error = Error::stage(format!("the training diverged: {}", divergence.what))
        .hint(format!("a rerun with the same parameters diverges again; try a lower `lr`, {clip}{norm}"));
    match &divergence.checkpoint {
        None => error.because("there is no earlier checkpoint"),
        Some((step, path)) => {
            let error = error.because(format!("the last good checkpoint is at step {step}: `{}`", path.display()));
            let export = format!(
                "to start from its weights with other parameters: `erw weights export {} --set model --out FILE`, then \
                 `init` from a stage of kind `weights` with `as = \"sit\"`, `source = \"FILE\"` and `config = \"{}\"`",
                path.display(),
                path.with_file_name(CONFIG_FILE).display()
            );
            error.maybe_hint(sit.map(|_| export))
        }
    }
}
