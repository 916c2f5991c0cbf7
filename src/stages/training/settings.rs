//! Parameters that every trainer has: the optimizer, its schedule, and the intervals of reports,
//! validation and checkpoints.

use erw_base::error::{Error, Result};
use erw_ml::models::sit;
use erw_ml::one_or_many::OneOrMany;
use erw_ml::ranks::Ranks;
use erw_ml::train::CheckpointRetention;
use erw_ml::train::adamw::{AdamWConfig, Decay};
use erw_ml::train::config::FitConfig;
use erw_ml::train::lr::{LrSchedule, Shape};
use erw_runner::kind::attempt::Attempt;
use serde::Deserialize;

/// Optimization parameters, flattened into the parameters of a kind. serde refuses names that
/// neither struct has.
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
pub struct LoopSettings {
    checkpoint_every: u64,
    keep_last: u64,
    keep_every: u64,
    log_every: u64,
    /// Folder for TensorBoard event files, relative to the pipeline file.
    pub tensorboard: Option<String>,
    /// Present only in kinds whose network generates samples.
    #[serde(default)]
    pub samples_every: u64,
    /// Present only in kinds that train a SiT.
    #[serde(default)]
    checkpointing: Checkpointing,
}

/// What to keep of a forward pass for the backward pass.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Checkpointing {
    #[default]
    None,
    Blocks,
}

impl LoopSettings {
    /// What the blocks of a SiT keep.
    pub fn keep(&self) -> sit::SavedActivations {
        match self.checkpointing {
            Checkpointing::None => sit::SavedActivations::Everything,
            Checkpointing::Blocks => sit::SavedActivations::Inputs,
        }
    }
}

impl Optimization {
    /// Checks what the limits in the manifest cannot express.
    pub fn check(&self) -> Result<()> {
        if self.lr < 0.0 {
            return Err(Error::usage(format!("`lr` {} is below 0", self.lr)));
        }
        if self.lr_min > self.lr {
            return Err(Error::usage(format!("`lr_min` {} is above `lr` {}", self.lr_min, self.lr)));
        }
        let decays = self.ema_decay.to_vec();
        if decays.is_empty() {
            return Err(Error::usage("`ema_decay` is an empty list").hint("give at least one decay"));
        }
        match decays.iter().enumerate().find(|(i, decay)| decays[..*i].contains(decay)) {
            Some((_, twice)) => Err(Error::usage(format!("`ema_decay` has {twice} twice"))),
            None => Ok(()),
        }
    }

    /// A warning about an average that hardly leaves the weights of the start, and so is of little
    /// use.
    fn left_of_start(&self, decay: f64) -> Option<String> {
        /// Chosen.
        const MUCH: f64 = 0.2;
        let left = decay.powi(i32::try_from(self.steps).unwrap_or(i32::MAX));
        (self.steps > 0 && left > MUCH).then(|| {
            let percent = 100.0 * left;
            format!(
                "warning: after {} steps the average with an `ema_decay` of {decay} still consists of the weights of \
                 the start by {percent:.0} %; a lower one follows faster",
                self.steps
            )
        })
    }

    /// The loop settings of this attempt, with `batch` samples per step in `accumulate`
    /// micro-batches.
    pub fn fit(&self, attempt: &Attempt, batch: usize, accumulate: usize) -> Result<FitConfig> {
        let LoopSettings { checkpoint_every, keep_last, keep_every, log_every, .. } = attempt.operation()?;
        self.ema_decay.to_vec().into_iter().filter_map(|decay| self.left_of_start(decay)).for_each(|text| {
            attempt.log(&text);
        });
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
            ranks: Ranks::default(),
            checkpoint_every,
            log_every,
            checkpoint_dir: attempt.checkpoint_dir(),
            keep: CheckpointRetention { last: keep_last, every: keep_every },
            samples: batch,
            loss_scaling: false,
        })
    }
}

/// Masks and noise are drawn for each image of a step: copies of an image in a batch are equal.
pub fn warn_of_copies(attempt: &Attempt, batch: usize, images: u64) {
    if batch as u64 > images {
        attempt.log(&format!(
            "warning: `batch` {batch} is above the number of images, {images}: the copies of an image in a batch are \
             equal, and change nothing"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// serde does not promise that `deny_unknown_fields` works with `flatten`; the trainers rely on
    /// it.
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
            "weight_decay": 0, "max_grad_norm": 1, "ema_decay": 0.5, "lr_schedule": "cosine", "lr_warmup": 1,
            "lr_min": 0, "decay": "matrices"});
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
