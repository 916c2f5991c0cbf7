//! What the stages that train a network have in common: the parameters of the loop, as their manifests name them.

use crate::error::Result;
use crate::ml::optim::AdamWConfig;
use crate::ml::train::FitConfig;
use crate::runner::attempt::Attempt;
use serde::Deserialize;

/// Flattened into the parameters of a kind; those refuse what neither knows.
#[derive(Debug, Deserialize)]
pub struct Optimization {
    steps: u64,
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    max_grad_norm: f64,
    ema_decay: f64,
}

/// The operation values of a trainer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cadence {
    checkpoint_every: u64,
    log_every: u64,
}

impl Optimization {
    /// The loop of this attempt, with so many micro-batches per step.
    pub fn fit(&self, attempt: &Attempt, accumulate: usize) -> Result<FitConfig> {
        let Cadence { checkpoint_every, log_every } = attempt.operation()?;
        Ok(FitConfig {
            steps: self.steps,
            optimizer: AdamWConfig {
                lr: self.lr,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: self.weight_decay,
            },
            max_grad_norm: self.max_grad_norm,
            ema_decay: self.ema_decay,
            accumulate,
            checkpoint_every,
            log_every,
            checkpoint_dir: attempt.checkpoint_dir(),
            loss_scaling: false,
        })
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
            "weight_decay": 0, "max_grad_norm": 1, "ema_decay": 0.5});
        let kind: Kind = serde_json::from_value(values.clone()).unwrap();
        assert_eq!((kind.batch, kind.optimization.steps, kind.optimization.lr), (2, 3, 1.0));
        values["stesp"] = json!(3);
        let error = serde_json::from_value::<Kind>(values.clone()).err().unwrap().to_string();
        assert!(error.contains("unknown field `stesp`"), "{error}");
        values.as_object_mut().unwrap().retain(|name, _| name != "stesp" && name != "beta2");
        assert!(serde_json::from_value::<Kind>(values).is_err());
    }
}
