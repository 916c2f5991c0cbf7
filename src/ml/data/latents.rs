//! Latents as an autoencoder leaves them: a posterior for each image, its label, and the scale at
//! which a network takes them. Knows nothing of training.

use super::packed::Packed;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::path::Path;

/// Ending of the names of tensors that belong to the mirrored image.
pub const MIRRORED: &str = "_flip";

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

    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        x.affine(self.factor, -self.shift * self.factor)
    }
}

/// An opened set of latents, whose labels were checked.
#[derive(Debug)]
pub struct Latents {
    packed: Packed,
    scale: Scale,
    labels: Vec<u32>,
    classes: Vec<String>,
}

impl Latents {
    /// Opens a packed array with `mean` and `std` `[channels, height, width]` and `labels`.
    ///
    /// # Errors
    /// A label that is none of the classes.
    pub fn open(dir: &Path) -> Result<Self> {
        let packed = Packed::open(dir)?;
        let classes: Vec<String> = serde_json::from_value(packed.meta()["classes"].clone()).unwrap_or_default();
        Ok(Self { scale: Scale::of(&packed), labels: labels(&packed, classes.len())?, classes, packed })
    }

    pub fn packed(&self) -> &Packed {
        &self.packed
    }

    pub fn len(&self) -> u64 {
        self.packed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Channels, height and width.
    pub fn shape(&self) -> Result<[usize; 3]> {
        match self.packed.shape("mean")?[..] {
            [channels, height, width] => Ok([channels, height, width]),
            _ => bail!("latents are not of the shape [channels, height, width]"),
        }
    }

    /// Whether those of the mirrored images are there too.
    pub fn has_mirrored(&self) -> bool {
        self.packed.tensors().any(|name| name == format!("mean{MIRRORED}"))
    }

    pub fn labels(&self, rows: &[u64]) -> Vec<u32> {
        rows.iter().map(|row| self.labels[*row as usize]).collect()
    }

    /// Scaled samples of the posteriors of these rows, of the mirrored images where `flipped` says
    /// so: mean plus deviation times `noise`, which is of their shape and on the device that they
    /// are wanted on.
    pub fn draw(&self, rows: &[u64], flipped: &[bool], noise: &Tensor) -> Result<Tensor> {
        let moments = |tensor: &str| self.moments(tensor, rows, flipped, noise.device())?.to_dtype(DType::F32);
        let (mean, std) = (moments("mean")?, moments("std")?);
        self.scale.apply(&(mean + (std * noise)?)?)
    }

    fn moments(&self, tensor: &str, rows: &[u64], flipped: &[bool], device: &Device) -> Result<Tensor> {
        if !flipped.contains(&true) {
            return self.packed.rows(tensor, rows, device);
        }
        let mirrored = format!("{tensor}{MIRRORED}");
        let row =
            |(row, flip): (&u64, &bool)| self.packed.rows(if *flip { &mirrored } else { tensor }, &[*row], device);
        Tensor::cat(&rows.iter().zip(flipped).map(row).collect::<Result<Vec<_>>>()?, 0)
    }

    /// In what a set for validation must not differ and does.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let (ours, theirs) = (&self.packed, &other.packed);
        if ours.shape("mean").ok() != theirs.shape("mean").ok() {
            return Some("the shape of latents");
        }
        if ours.meta()["classes"] != theirs.meta()["classes"] {
            return Some("the classes");
        }
        (self.scale != other.scale).then_some("the scale of latents")
    }
}

/// All labels, each one of the classes.
fn labels(latents: &Packed, classes: usize) -> Result<Vec<u32>> {
    let stored = latents.all("labels", &Device::Cpu)?.to_vec1::<i64>()?;
    stored
        .into_iter()
        .map(|label| match u32::try_from(label) {
            Ok(l) if (l as usize) < classes => Ok(l),
            _ => bail!("a latent has label {label}, but there are {classes} classes"),
        })
        .collect()
}
