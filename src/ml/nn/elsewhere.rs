//! The part of a network that is computed elsewhere, as on a GPU by erw's own kernels. The network
//! itself keeps what is before and behind it.

use candle_core::{Result, Tensor};

type Function = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

/// A function of a tensor. Its result is on the CPU.
pub struct Elsewhere(Box<Function>);

impl Elsewhere {
    pub fn new(function: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Self {
        Self(Box::new(function))
    }

    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        (self.0)(x)
    }
}

impl std::fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Elsewhere")
    }
}
