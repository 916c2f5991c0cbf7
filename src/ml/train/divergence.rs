//! Detects values that are not finite, which end a training, and names them: the loss or a part of
//! it, the gradient of a parameter, or the state after an update. It does not know the cause.
//!
//! Every step checks the loss and the norm of the gradient, which are NaN or infinite if any value
//! behind them is; only then are tensors searched. Parameters, averages and moments are checked
//! before a checkpoint is written and at the end: an update can overflow although its gradient is
//! finite, and an infinite second moment would silently stop its parameter from learning.

use super::checkpoint::Checkpoint;
use super::curve::CurvePoint;
use crate::kernels;
use crate::nn::params::{self, Tensors};
use candle_core::{DType, Device, Result};
use std::path::PathBuf;

/// Why a training cannot continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// What is not finite, and at which step.
    pub what: String,
    /// The steps and path of the newest checkpoint from before.
    pub checkpoint: Option<(u64, PathBuf)>,
}

/// The fault of a step that is about to update the parameters with these gradients, if there is
/// one.
pub(super) fn of_step(point: &CurvePoint, gradients: &mut dyn FnMut() -> Result<Tensors>) -> Result<Option<String>> {
    let at = format!("at step {} (counted from 0)", point.step - 1);
    let parts: Vec<String> =
        point.parts.iter().filter(|(_, v)| !v.is_finite()).map(|(name, v)| format!("part `{name}` {v}")).collect();
    if !point.loss.is_finite() {
        let parts = if parts.is_empty() { String::new() } else { format!(", {}", parts.join(", ")) };
        return Ok(Some(format!("the loss is {} {at}{parts}", point.loss)));
    }
    if !parts.is_empty() {
        return Ok(Some(format!("the loss has {} {at}", parts.join(", "))));
    }
    if point.grad_norm.is_finite() {
        return Ok(None);
    }
    let grads = &gradients()?;
    let bad = bad_tensors(grads)?;
    Ok(Some(match bad.first() {
        Some((name, numbers)) => {
            let (some, all, size) = (bad.len(), grads.len(), grads[*name].elem_count());
            let first = format!("first that of `{name}` ({numbers} of its {size} values)");
            format!("the gradients of {some} of {all} parameters are NaN or infinite {at}, {first}")
        }
        None => {
            let (name, size) = largest(grads)?;
            format!(
                "the norm of the gradient is {} {at}; its largest value is {size:e}, in that of `{name}`",
                point.grad_norm
            )
        }
    }))
}

/// The fault of the state that is about to be saved, if there is one.
pub(super) fn of_state(state: &Checkpoint) -> Result<Option<String>> {
    let groups = [
        ("parameter", &state.model),
        ("the average of", &state.ema),
        ("a further average of", &state.further),
        ("the first moment of", &state.first),
        ("the second moment of", &state.second),
    ];
    for (what, tensors) in groups {
        if let Some((name, numbers)) = bad_tensors(tensors)?.first() {
            let size = tensors[*name].elem_count();
            let after = if state.step == 1 { "1 step".into() } else { format!("{} steps", state.step) };
            let count = format!("{numbers} of its {size} values");
            return Ok(Some(format!("{what} `{name}` is NaN or infinite after {after} ({count})")));
        }
    }
    Ok(None)
}

/// Names of tensors with non-finite values and the number of these, in the order of the network.
fn bad_tensors(tensors: &Tensors) -> Result<Vec<(&String, usize)>> {
    let mut bad = vec![];
    for (name, t) in tensors {
        let numbers = params::not_finite(t)?;
        if numbers > 0 {
            bad.push((name, numbers));
        }
    }
    bad.sort_by_key(|(name, _)| place(name));
    Ok(bad)
}

/// A sort key in which numbers count as numbers: block 2 comes before block 10.
fn place(name: &str) -> Vec<(Option<u64>, String)> {
    name.split('.').map(|part| (part.parse().ok(), part.to_string())).collect()
}

/// The name of the tensor with the largest absolute value, and the value. 0 for an empty set.
fn largest(tensors: &Tensors) -> Result<(&str, f32)> {
    let mut found = ("", 0.0);
    for (name, t) in tensors {
        let numbers = t.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
        let size = kernels::with_slices([&numbers], |[x]| x.iter().fold(0f32, |m, v| m.max(v.abs())))?;
        if size > found.1 {
            found = (name, size);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;

    fn tensors(all: &[(&str, &[f32])]) -> Tensors {
        all.iter().map(|(name, v)| (name.to_string(), Tensor::new(*v, &Device::Cpu).unwrap())).collect()
    }

    fn point(loss: f64, part: f64, grad_norm: f64) -> CurvePoint {
        CurvePoint { step: 8, loss, parts: [("velocity".to_string(), part)].into(), grad_norm, lr: 0.1 }
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let grads = tensors(&[("blocks.10.w", &[nan, 1.0]), ("blocks.2.w", &[1.0, inf, nan]), ("c", &[2.0])]);
        let said = |point: &CurvePoint, grads: &Tensors| of_step(point, &mut || Ok(grads.clone())).unwrap();
        assert_eq!(said(&point(1.0, 1.0, 2.0), &grads), None, "with a finite norm nothing is searched");
        let text = |s: &str| Some(s.to_string());
        assert_eq!(
            said(&point(1.0, 1.0, f64::NAN), &grads),
            text(
                "the gradients of 2 of 3 parameters are NaN or infinite at step 7 (counted from 0), first that of \
                 `blocks.2.w` (2 of its 3 values)"
            )
        );
        assert_eq!(
            said(&point(f64::NAN, f64::INFINITY, 1.0), &grads),
            text("the loss is NaN at step 7 (counted from 0), part `velocity` inf")
        );
        let part = "the loss has part `velocity` NaN at step 7 (counted from 0)";
        assert_eq!(said(&point(1.0, f64::NAN, 1.0), &grads), text(part));
        let large = tensors(&[("a", &[1e30, 1.0]), ("b", &[-2e30])]);
        assert_eq!(
            said(&point(1.0, 1.0, f64::INFINITY), &large),
            text(
                "the norm of the gradient is inf at step 7 (counted from 0); its largest value is 2e30, in that of `b`"
            )
        );
    }

    #[test]
    fn a_state_is_searched_in_all_its_parts() {
        let good = || tensors(&[("w", &[1.0, 2.0])]);
        let state = |second: Tensors| Checkpoint {
            step: 5,
            model: good(),
            ema: good(),
            further: Tensors::new(),
            first: good(),
            second,
            curve: Tensors::new(),
            validation: Tensors::new(),
            scaler: Tensors::new(),
        };
        assert_eq!(of_state(&state(good())).unwrap(), None);
        let told = of_state(&state(tensors(&[("w", &[1.0, f32::INFINITY])]))).unwrap().unwrap();
        assert_eq!(told, "the second moment of `w` is NaN or infinite after 5 steps (1 of its 2 values)");
    }
}
