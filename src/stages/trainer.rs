//! What the stages that train a network have in common: the parameters of the loop, as their manifests name them, and how
//! it is run and its end told.

use super::reporter::Reporter;
use crate::error::{Error, Result};
use crate::ml::models::sit::{self, SiTConfig};
use crate::ml::one_or_many::OneOrMany;
use crate::ml::optim::{AdamWConfig, Decay};
use crate::ml::prefetch::{Place, following, prefetching};
use crate::ml::train::lr::{LrSchedule, Shape};
use crate::ml::train::{Divergence, Fit, FitConfig, Keep, StepLoss, Trained, Watch, fit};
use crate::ml::weights::ParamSet;
use crate::runner::attempt::Attempt;
use serde::Deserialize;

/// Flattened into the parameters of a kind; those refuse what neither knows.
#[derive(Debug, Deserialize)]
pub struct Optimization {
    pub steps: u64,
    lr: f64,
    lr_schedule: Shape,
    lr_warmup: u64,
    lr_min: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    decay: Decay,
    max_grad_norm: f64,
    ema_decay: OneOrMany<f64>,
}

/// The operation values of a trainer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cadence {
    checkpoint_every: u64,
    keep_last: u64,
    keep_every: u64,
    log_every: u64,
    /// Folder of event files, from that of the pipeline.
    pub tensorboard: Option<String>,
    /// Only kinds whose network samples have it.
    #[serde(default)]
    pub samples_every: u64,
    /// Only kinds that train a SiT have it.
    #[serde(default)]
    checkpointing: Checkpointing,
}

/// What is kept of a forward pass for the backward one.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Checkpointing {
    #[default]
    None,
    Blocks,
}

impl Cadence {
    /// What the blocks of a SiT keep.
    pub fn keep(&self) -> sit::Keep {
        match self.checkpointing {
            Checkpointing::None => sit::Keep::Everything,
            Checkpointing::Blocks => sit::Keep::Inputs,
        }
    }
}

impl Optimization {
    /// Checks what the limits of the manifest cannot say.
    pub fn check(&self) -> Result<()> {
        if self.lr_min > self.lr {
            return Err(Error::usage(format!("`lr_min` {} is above `lr` {}", self.lr_min, self.lr)));
        }
        let decays = self.ema_decay.to_vec();
        if decays.is_empty() {
            return Err(Error::usage("`ema_decay` is an empty list").hint("one average is kept at least"));
        }
        match decays.iter().enumerate().find(|(i, decay)| decays[..*i].contains(decay)) {
            Some((_, twice)) => Err(Error::usage(format!("`ema_decay` has {twice} twice"))),
            None => Ok(()),
        }
    }

    /// The loop of this attempt, with so many samples per step in so many micro-batches.
    pub fn fit(&self, attempt: &Attempt, batch: usize, accumulate: usize) -> Result<FitConfig> {
        let Cadence { checkpoint_every, keep_last, keep_every, log_every, .. } = attempt.operation()?;
        Ok(FitConfig {
            steps: self.steps,
            optimizer: AdamWConfig {
                lr: self.lr,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: self.weight_decay,
                decay: self.decay,
            },
            lr: LrSchedule { shape: self.lr_schedule, warmup: self.lr_warmup, min: self.lr_min },
            max_grad_norm: self.max_grad_norm,
            ema_decays: self.ema_decay.to_vec(),
            accumulate,
            checkpoint_every,
            log_every,
            checkpoint_dir: attempt.checkpoint_dir(),
            keep: Keep { last: keep_last, every: keep_every },
            samples: batch,
            loss_scaling: false,
        })
    }
}

/// Beside the checkpoints of a SiT: with it they can be exported.
pub const CONFIG_FILE: &str = "config.json";

/// Trains to the end on batches that `make` makes ahead of the loop, and reports to the attempt.
///
/// # Errors
/// [`Error::suspended`] when the attempt was asked to stop; a divergence, with what can be done about it.
pub fn train<B: Send>(
    attempt: &Attempt,
    params: &ParamSet,
    cfg: &FitConfig,
    watch: &mut Watch,
    make: &(dyn Fn(Place) -> candle_core::Result<B> + Sync),
    loss: &dyn Fn(u64, B) -> candle_core::Result<StepLoss>,
) -> Result<Trained> {
    let reporter = Reporter::new(attempt, cfg.samples)?;
    let outcome = prefetching(make, &following(cfg.steps, cfg.accumulate), |batches| {
        let mut step_loss = |step, micro| loss(step, reporter.waiting(|| batches.take((step, micro)))?);
        fit(params, cfg, &reporter, watch, &mut step_loss)
    });
    match outcome? {
        Fit::Done(trained) => Ok(trained),
        Fit::Stopped => Err(Error::suspended()),
        Fit::Diverged(divergence) => Err(diverged(&divergence, cfg)),
    }
}

fn diverged(divergence: &Divergence, cfg: &FitConfig) -> Error {
    // Only a SiT has its configuration there.
    let sit: Option<SiTConfig> =
        std::fs::read(cfg.checkpoint_dir.join(CONFIG_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let clip = if cfg.max_grad_norm > 0.0 { "a smaller `max_grad_norm`" } else { "`max_grad_norm = 1.0`" };
    let norm = if sit.as_ref().is_some_and(|c| !c.qk_norm) { ", or `qk_norm = true`" } else { "" };
    let error = Error::stage(format!("the training diverged: {}", divergence.what))
        .hint(format!("the same parameters end here again; try a lower `lr`, {clip}{norm}"));
    match &divergence.checkpoint {
        None => error.because("there is no checkpoint from before"),
        Some((step, path)) => {
            let error = error.because(format!("the last good checkpoint is of step {step}: `{}`", path.display()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// serde does not promise that `deny_unknown_fields` and `flatten` go together; the trainers count on it.
    #[test]
    fn a_flattened_struct_takes_its_own_and_the_rest_is_refused() {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Kind {
            batch: usize,
            #[serde(flatten)]
            optimization: Optimization,
        }
        let mut values = json!({"batch": 2, "steps": 3, "lr": 1, "beta1": 0.9, "beta2": 0.9, "eps": 1e-8,
            "weight_decay": 0, "max_grad_norm": 1, "ema_decay": 0.5, "lr_schedule": "cosine", "lr_warmup": 1, "lr_min": 0,
            "decay": "matrices"});
        let kind: Kind = serde_json::from_value(values.clone()).unwrap();
        assert_eq!((kind.batch, kind.optimization.steps, kind.optimization.lr), (2, 3, 1.0));
        values["stesp"] = json!(3);
        let error = serde_json::from_value::<Kind>(values.clone()).err().unwrap().to_string();
        assert!(error.contains("unknown field `stesp`"), "{error}");
        values.as_object_mut().unwrap().retain(|name, _| name != "stesp" && name != "beta2");
        assert!(serde_json::from_value::<Kind>(values).is_err());
    }

    #[test]
    fn values_that_do_not_go_together_are_named() {
        let said = |name: &str, value: serde_json::Value| {
            let mut values = json!({"steps": 3, "lr": 1, "beta1": 0.9, "beta2": 0.9, "eps": 1e-8, "weight_decay": 0,
                "max_grad_norm": 1, "ema_decay": 0.5, "lr_schedule": "constant", "lr_warmup": 0, "lr_min": 0,
                "decay": "all"});
            values[name] = value;
            let optimization: Optimization = serde_json::from_value(values).unwrap();
            optimization.check().err().map(|e| e.message)
        };
        assert_eq!(said("lr_schedule", json!("cosine")), None);
        assert_eq!(said("ema_decay", json!([0.9, 0.99])), None);
        assert_eq!(said("lr_min", json!(1.5)).unwrap(), "`lr_min` 1.5 is above `lr` 1");
        assert_eq!(said("ema_decay", json!([])).unwrap(), "`ema_decay` is an empty list");
        assert_eq!(said("ema_decay", json!([0.9, 0.99, 0.9])).unwrap(), "`ema_decay` has 0.9 twice");
    }
}
