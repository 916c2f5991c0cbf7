//! What the stages that train a network have in common: the parameters of the loop, as their manifests name them, and how
//! it is run.

use super::reporter::Reporter;
use crate::error::{Error, Result};
use crate::ml::one_or_many::OneOrMany;
use crate::ml::optim::{AdamWConfig, Decay};
use crate::ml::prefetch::{Place, following, prefetching};
use crate::ml::train::lr::{LrSchedule, Shape};
use crate::ml::train::{Fit, FitConfig, StepLoss, fit};
use crate::ml::weights::ParamSet;
use crate::runner::attempt::Attempt;
use serde::Deserialize;

/// Flattened into the parameters of a kind; those refuse what neither knows.
#[derive(Debug, Deserialize)]
pub struct Optimization {
    steps: u64,
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
    log_every: u64,
    /// Folder of event files, from that of the pipeline.
    pub tensorboard: Option<String>,
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

    /// The loop of this attempt, with so many micro-batches per step.
    pub fn fit(&self, attempt: &Attempt, accumulate: usize) -> Result<FitConfig> {
        let Cadence { checkpoint_every, log_every, .. } = attempt.operation()?;
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
        })
    }
}

/// Runs the loop on batches that `make` makes ahead of it, and reports to the attempt.
pub fn train<B: Send>(
    attempt: &Attempt,
    params: &ParamSet,
    cfg: &FitConfig,
    make: &(dyn Fn(Place) -> candle_core::Result<B> + Sync),
    loss: &dyn Fn(u64, B) -> candle_core::Result<StepLoss>,
) -> Result<Fit> {
    let reporter = Reporter::new(attempt)?;
    Ok(prefetching(make, &following(cfg.steps, cfg.accumulate), |batches| {
        let mut step_loss = |step, micro| loss(step, reporter.waiting(|| batches.take((step, micro)))?);
        fit(params, cfg, &reporter, &mut step_loss)
    })?)
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
