//! Exponential moving averages of named parameters.
//!
//! The update itself is in [`super::adamw`], in the same pass over memory as the optimizer's.

use crate::kernels;
use crate::nn::params::{ParamSet, Tensors};
use candle_core::{Result, Tensor, bail};

/// The averages e <- decay e + (1 - decay) p of a set of parameters, updated at every step. A
/// training has one such set per decay.
#[derive(Debug, Clone)]
pub struct Ema {
    pub decay: f64,
    pub(crate) values: Tensors,
}

impl Ema {
    /// Starts at the current values.
    pub fn new(params: &ParamSet, decay: f64) -> Result<Self> {
        let values = params.vars().into_iter().map(|(name, var)| Ok((name, var.copy()?))).collect::<Result<_>>()?;
        Ok(Self { decay, values })
    }

    /// Continues from saved values, which are removed from `saved`. Every parameter must be there.
    pub fn from_tensors(params: &ParamSet, decay: f64, saved: &mut Tensors) -> Result<Self> {
        Ok(Self { decay, values: state_of(params, saved, "averages")? })
    }

    /// The averages by name. They share memory with the state.
    pub fn tensors(&self) -> Tensors {
        self.values.clone()
    }
}

/// Removes a tensor from `saved` for every parameter, checks its shape, and moves it to the
/// parameter's device.
pub(crate) fn state_of(params: &ParamSet, saved: &mut Tensors, what: &str) -> Result<Tensors> {
    let tensor = |(name, var): (String, candle_core::Var)| match saved.remove(&name) {
        Some(t) if t.shape() == var.shape() => Ok((name, own(t.to_device(var.device())?)?)),
        _ => bail!("the saved {what} have no tensor with the shape of parameter {name}"),
    };
    params.vars().into_iter().map(tensor).collect()
}

/// A contiguous copy, for the fused update.
fn own(t: Tensor) -> Result<Tensor> {
    if kernels::suits(&[&t]) { t.contiguous() } else { Ok(t) }
}
