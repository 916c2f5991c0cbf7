//! Where a training has its features from: stored beside the latents, or computed by frozen
//! encoders from the images of each micro-batch while the training goes on. Both give the same
//! numbers; one costs disk, the other time at every step.
//!
//! It knows latents only as what the features must pair with, and nothing of steps or losses.

use crate::data::augment::mirror;
use crate::data::images::ImageSet;
use crate::data::latents::Latents;
use crate::data::packed::Packed;
use crate::data::pairing::{check_pairs, labels_digest, stated_labels};
use crate::models::encoder::Encoder;
use candle_core::{DType, Device, Result, Tensor, bail};

/// Opened features that pair with the latents of a training.
pub enum Features {
    /// A set per encoder.
    Stored(Vec<Packed>),
    Online(Box<ImageSet>, Vec<Encoder>),
}

/// What one encoder gives for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub tokens: usize,
    pub dim: usize,
}

impl Features {
    /// Of a training without alignment.
    pub fn none() -> Self {
        Self::Stored(vec![])
    }

    /// Stored features `tokens` `[tokens, dim]`, a set per encoder with its name for messages.
    ///
    /// # Errors
    /// Features of other images than the latents.
    pub fn stored(latents: &Latents, sets: Vec<(String, Packed)>) -> Result<Self> {
        for (name, set) in &sets {
            check_pairs(latents.packed(), name, set.len(), stated_labels(set))?;
        }
        Ok(Self::Stored(sets.into_iter().map(|(_, set)| set).collect()))
    }

    /// Features to be computed; `name` is what messages call the images.
    ///
    /// # Errors
    /// Other images than those of the latents.
    pub fn online(latents: &Latents, name: &str, images: ImageSet, encoders: Vec<Encoder>) -> Result<Self> {
        check_pairs(latents.packed(), name, images.len(), Some(&labels_digest(&images.labels())))?;
        Ok(Self::Online(Box::new(images), encoders))
    }

    /// Number of encoders.
    pub fn encoders(&self) -> usize {
        match self {
            Self::Stored(sets) => sets.len(),
            Self::Online(_, encoders) => encoders.len(),
        }
    }

    /// Of an encoder, by its number.
    pub fn grid(&self, encoder: usize) -> Result<Grid> {
        let (tokens, dim) = match self {
            Self::Stored(sets) => match sets[encoder].shape("tokens")?[..] {
                [tokens, dim] => (tokens, dim),
                ref other => bail!("rows are {other:?}, not [tokens, dim]"),
            },
            Self::Online(images, encoders) => encoders[encoder].shape(images.height())?,
        };
        Ok(Grid { tokens, dim })
    }

    /// [`tokens`](Self::tokens) on the CPU where no encoder must run for them.
    pub fn read(&self, rows: &[u64], flipped: &[bool]) -> Result<Option<Vec<Tensor>>> {
        match self {
            Self::Stored(_) => self.tokens(rows, flipped, &Device::Cpu).map(Some),
            Self::Online(..) => Ok(None),
        }
    }

    /// Features f32 `[n, T, D]` of the images of these rows, one tensor per encoder. No gradient
    /// leads into them. Those of mirrored images are only to be had by computing them.
    pub fn tokens(&self, rows: &[u64], flipped: &[bool], device: &Device) -> Result<Vec<Tensor>> {
        match self {
            Self::Stored(_) if flipped.contains(&true) => bail!("stored features are not of mirrored images"),
            Self::Stored(sets) => sets.iter().map(|f| f.rows("tokens", rows, device)?.to_dtype(DType::F32)).collect(),
            Self::Online(images, encoders) => {
                let mut pixels = images.batch(rows, device)?;
                if flipped.contains(&true) {
                    pixels = mirror(&pixels, flipped)?;
                }
                encoders.iter().map(|e| Ok(e.tokens(&pixels)?.detach())).collect()
            }
        }
    }
}
