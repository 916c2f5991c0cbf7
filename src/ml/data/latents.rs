//! Latents from an autoencoder: a posterior and a label for each image, and the scale that networks
//! expect. Knows nothing of training.

use super::latent_scale::LatentScale;
use super::packed::Packed;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::path::Path;

/// Suffix of the names of tensors that belong to the mirrored image.
pub const MIRRORED: &str = "_flip";

/// An opened set of latents with checked labels.
#[derive(Debug)]
pub struct Latents {
    packed: Packed,
    scale: LatentScale,
    labels: Vec<u32>,
    classes: Vec<String>,
}

impl Latents {
    /// Opens a packed array with `mean` and `std` `[channels, height, width]` and `labels`.
    ///
    /// # Errors
    /// A label that is not one of the classes, or a scale that does not fit.
    pub fn open(dir: &Path) -> Result<Self> {
        let packed = Packed::open(dir)?;
        let classes: Vec<String> = serde_json::from_value(packed.meta()["classes"].clone()).unwrap_or_default();
        let scale = LatentScale::of(packed.meta())?;
        scale.check(packed.shape("mean")?.first().copied().unwrap_or(0))?;
        Ok(Self { scale, labels: labels(&packed, classes.len())?, classes, packed })
    }

    pub fn packed(&self) -> &Packed {
        &self.packed
    }

    /// How a network sees them.
    pub fn scale(&self) -> &LatentScale {
        &self.scale
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
            _ => bail!("latents do not have the shape [channels, height, width]"),
        }
    }

    /// Whether the set also has the latents of the mirrored images.
    pub fn has_mirrored(&self) -> bool {
        self.packed.tensors().any(|name| name == format!("mean{MIRRORED}"))
    }

    pub fn labels(&self, rows: &[u64]) -> Vec<u32> {
        rows.iter().map(|row| self.labels[*row as usize]).collect()
    }

    /// Scaled samples f32 of the posteriors of these rows, and of the mirrored images where
    /// `flipped` is true: mean plus standard deviation times `noise`. `noise` has the shape of the
    /// samples and is on the device of the result.
    pub fn draw(&self, rows: &[u64], flipped: &[bool], noise: &Tensor) -> Result<Tensor> {
        let moments = |tensor: &str| self.moments(tensor, rows, flipped, noise.device())?.to_dtype(DType::F32);
        let (mean, std) = (moments("mean")?, moments("std")?);
        self.scale.to_network(&(mean + (std * noise)?)?)
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

    /// What differs from a validation set although it must not; `None` if nothing does.
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

/// Reads all labels and checks that each is one of the classes.
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
