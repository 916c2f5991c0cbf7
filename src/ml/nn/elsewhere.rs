//! The part of a network that is computed elsewhere, as on a GPU by erw's own kernels. The network
//! itself keeps what is before and behind it.

use candle_core::{Result, Tensor, bail};

type Function = dyn Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync;

/// A function of a tensor. Its results are on the CPU.
pub struct Elsewhere(Box<Function>);

impl Elsewhere {
    pub fn new(function: impl Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync + 'static) -> Self {
        Self(Box::new(function))
    }

    /// All results.
    pub fn all<const N: usize>(&self, x: &Tensor) -> Result<[Tensor; N]> {
        match (self.0)(x)?.try_into() {
            Ok(results) => Ok(results),
            Err(others) => bail!("{} results where there should be {N}", others.len()),
        }
    }

    /// The only result.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        self.all(x).map(|[result]| result)
    }
}

impl std::fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Elsewhere")
    }
}
