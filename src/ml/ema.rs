//! Exponential moving averages of named parameters.
//!
//! The update itself happens in [`super::optim`], in the same pass over memory as the optimiser's.

use super::weights::{ParamSet, Tensors};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::collections::BTreeMap;

/// Numbers kept beside a parameter: plain memory where the fused update runs, a tensor elsewhere.
#[derive(Debug, Clone)]
pub enum Buffer {
    Host(Vec<f32>),
    Tensor(Tensor),
}

impl Buffer {
    /// A copy of a tensor's numbers. `fused` says whether the fused update will use it.
    pub fn copy_of(t: &Tensor, fused: bool) -> Result<Self> {
        if fused { Ok(Self::Host(t.flatten_all()?.to_vec1()?)) } else { Ok(Self::Tensor(t.copy()?)) }
    }

    /// The numbers, which must lie in plain memory.
    pub fn host(&mut self) -> Result<&mut [f32]> {
        match self {
            Self::Host(data) => Ok(data),
            Self::Tensor(_) => bail!("an average lies in a tensor, and others of its parameter do not"),
        }
    }

    /// The numbers as a tensor of the parameter's shape.
    pub fn to_tensor(&self, like: &Tensor) -> Result<Tensor> {
        match self {
            Self::Host(data) => Tensor::from_slice(data, like.shape(), like.device()),
            Self::Tensor(t) => Ok(t.clone()),
        }
    }
}

/// Whether the fused CPU update can handle a parameter.
pub fn is_fused(t: &Tensor) -> bool {
    t.dtype() == DType::F32 && matches!(t.device(), Device::Cpu)
}

/// The averages e <- decay e + (1 - decay) p of a set of parameters, updated at every step. A training keeps one such
/// set for each decay.
#[derive(Debug, Clone)]
pub struct Ema {
    pub decay: f64,
    pub(super) values: BTreeMap<String, Buffer>,
}

impl Ema {
    /// Starts at the current values.
    pub fn new(params: &ParamSet, decay: f64) -> Result<Self> {
        Self::from_tensors(params, decay, &params.tensors())
    }

    /// Continues from saved values; every parameter must be there.
    pub fn from_tensors(params: &ParamSet, decay: f64, saved: &Tensors) -> Result<Self> {
        let values = params
            .vars()
            .into_iter()
            .map(|(name, var)| match saved.get(&name) {
                Some(t) if t.shape() == var.shape() => {
                    let buffer = Buffer::copy_of(&t.to_device(var.device())?, is_fused(&var))?;
                    Ok((name, buffer))
                }
                _ => bail!("the averages have no tensor of the shape of parameter {name}"),
            })
            .collect::<Result<_>>()?;
        Ok(Self { decay, values })
    }

    /// The averages by name. `params` gives the shapes.
    pub fn tensors(&self, params: &ParamSet) -> Result<Tensors> {
        to_tensors(&self.values, params)
    }
}

/// Buffers as tensors of the shapes of their parameters.
pub(super) fn to_tensors(buffers: &BTreeMap<String, Buffer>, params: &ParamSet) -> Result<Tensors> {
    params
        .vars()
        .into_iter()
        .map(|(name, var)| match buffers.get(&name) {
            Some(b) => Ok((name, b.to_tensor(&var)?)),
            None => bail!("parameter {name} has no state"),
        })
        .collect()
}
