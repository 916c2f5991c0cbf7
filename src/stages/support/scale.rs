//! The scale of latents, and their labels as the network takes them.

use candle_core::{Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::packed::Packed;

/// How latents are brought to the size that they are trained on: factor (x - shift).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    factor: f64,
    shift: f64,
}

impl Scale {
    pub fn of(latents: &Packed) -> Self {
        let number = |key: &str, absent: f64| latents.meta()[key].as_f64().unwrap_or(absent);
        Self { factor: number("scaling_factor", 1.0), shift: number("shift_factor", 0.0) }
    }

    pub fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.affine(self.factor, -self.shift * self.factor)
    }
}

/// All labels, each one of the classes.
pub fn labels(latents: &Packed, classes: usize) -> Result<Vec<u32>> {
    let stored = latents.all("labels", &Device::Cpu)?.to_vec1::<i64>()?;
    stored
        .into_iter()
        .map(|label| match u32::try_from(label) {
            Ok(l) if (l as usize) < classes => Ok(l),
            _ => Err(Error::stage(format!("a latent has label {label}, but there are {classes} classes"))),
        })
        .collect()
}
