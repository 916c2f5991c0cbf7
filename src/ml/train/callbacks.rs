//! Callbacks of a running training: validation losses and snapshots of averages, which are part of
//! its result, averages that teach, which change it, and previews, which do not.
//!
//! Validation and previews get weights by name and build their own network from them. They do not
//! touch the training, so its bits do not change. The weights are not variables, so no graph is
//! kept and a pass needs the memory of sampling, not of a training step. They share memory with
//! those of the training, so they are valid only during the call.

use super::snapshots::Snapshots;
use crate::nn::params::Tensors;
use candle_core::{Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Losses by name, the most important first.
pub type Losses = Vec<(String, f64)>;

/// Computes losses of these weights, and depends on nothing else.
pub type Validate<'a> = Box<dyn FnMut(&Tensors) -> Result<Losses> + 'a>;

/// Takes the first average before a step, for losses that compare with it.
pub type Teach<'a> = Box<dyn FnMut(&Tensors) -> Result<()> + 'a>;

/// Renders a preview from the averages after so many steps. It handles its own errors.
pub type Preview<'a> = Box<dyn FnMut(u64, &Tensors) + 'a>;

/// No callbacks by default.
#[derive(Default)]
pub struct Callbacks<'a> {
    /// Steps between two validations, and the validation. The last step is always validated.
    pub validate: Option<(u64, Validate<'a>)>,
    /// Steps between two previews, and the preview.
    pub show: Option<(u64, Preview<'a>)>,
    pub snapshots: Option<Snapshots>,
    /// Called before each step, on every rank.
    pub teach: Option<Teach<'a>>,
}

/// Whether a callback that runs every `every` steps is due after step `done` of `steps`. The last
/// step is always due, unless `every` is 0, which disables the callback.
pub(super) fn is_due(every: u64, done: u64, steps: u64) -> bool {
    every > 0 && (done.is_multiple_of(every) || done == steps)
}

/// The result of a validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationPoint {
    /// Steps done.
    pub step: u64,
    /// Losses of the weights that are trained.
    pub model: BTreeMap<String, f64>,
    /// Losses of the averaged weights.
    pub ema: BTreeMap<String, f64>,
}

/// One f64 tensor per column, so that a resumed series is bit-identical.
pub(super) fn to_tensors(points: &[ValidationPoint]) -> Result<Tensors> {
    let mut columns = Tensors::new();
    let Some(first) = points.first() else { return Ok(columns) };
    let column = |values: Vec<f64>| Tensor::from_vec(values, points.len(), &Device::Cpu);
    columns.insert("step".into(), column(points.iter().map(|p| p.step as f64).collect())?);
    for (set, names) in [("model", &first.model), ("ema", &first.ema)] {
        for name in names.keys() {
            let value = |p: &ValidationPoint| if set == "model" { p.model.get(name) } else { p.ema.get(name) }.copied();
            let Some(values) = points.iter().map(value).collect() else {
                bail!("the names of the validation losses differ from those of the first validation")
            };
            columns.insert(format!("{set}.{name}"), column(values)?);
        }
    }
    Ok(columns)
}

pub(super) fn from_tensors(columns: &Tensors) -> Result<Vec<ValidationPoint>> {
    let Some(steps) = columns.get("step") else { return Ok(vec![]) };
    let of = |set: &str, i: usize| -> Result<BTreeMap<String, f64>> {
        let own = columns.iter().filter_map(|(name, t)| Some((name.strip_prefix(set)?.strip_prefix('.')?, t)));
        own.map(|(name, t)| Ok((name.to_string(), t.get(i)?.to_scalar::<f64>()?))).collect()
    };
    let steps = steps.to_vec1::<f64>()?;
    let point =
        |(i, step): (usize, f64)| Ok(ValidationPoint { step: step as u64, model: of("model", i)?, ema: of("ema", i)? });
    steps.into_iter().enumerate().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_kept_to_the_last_bit() {
        let losses = |x: f64| BTreeMap::from([("velocity".to_string(), x), ("velocity@0.0625".to_string(), x / 3.0)]);
        let point = |step: u64| ValidationPoint { step, model: losses(0.1 * step as f64), ema: losses(1.0 / 3.0) };
        let points = vec![point(3), point(7)];
        assert_eq!(from_tensors(&to_tensors(&points).unwrap()).unwrap(), points);
        assert_eq!(from_tensors(&to_tensors(&[]).unwrap()).unwrap(), []);
        let mut other = points;
        other[1].ema.remove("velocity");
        assert!(to_tensors(&other).is_err());
    }

    #[test]
    fn the_last_step_is_looked_at_and_0_is_never() {
        let due: Vec<u64> = (1..=7).filter(|done| is_due(3, *done, 7)).collect();
        assert_eq!(due, [3, 6, 7]);
        assert!(!is_due(0, 7, 7));
    }
}
