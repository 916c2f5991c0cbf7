//! The alignment features of a training: stored beside the latents, or computed during training by
//! frozen encoders from the images of each micro-batch. Both give the same numbers. Stored features
//! cost disk space, online features cost time at every step.
//!
//! This file uses latents only to check that features pair with them. It knows nothing of steps or
//! losses.

use crate::data::augment::mirror;
use crate::data::images::ImageSet;
use crate::data::latents::Latents;
use crate::data::packed::Packed;
use crate::data::pairing::{check_pairs, labels_digest, stated_labels};
use crate::models::encoder::{Encoder, Outputs};
use candle_core::{DType, Device, Result, Tensor, bail};

/// The patch tokens `[T, D]` of an image in stored features.
pub const TOKENS: &str = "tokens";
/// Its class token `[D]`, where it was stored.
pub const CLASS_TOKEN: &str = "class_token";

/// Opened features, paired with the latents of a training.
pub enum Features {
    /// One set per encoder.
    Stored(Vec<Packed>),
    /// Images, and the encoders that compute features from them.
    Online(Box<ImageSet>, Vec<Encoder>),
}

/// Shape of one encoder's features for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub tokens: usize,
    pub dim: usize,
}

impl Features {
    /// No features, for a training without alignment.
    pub fn none() -> Self {
        Self::Stored(vec![])
    }

    /// Stored features: tensor [`TOKENS`] with rows `[tokens, dim]`, one set per encoder with its
    /// name for messages.
    ///
    /// # Errors
    /// The features and the latents describe different images.
    pub fn stored(latents: &Latents, sets: Vec<(String, Packed)>) -> Result<Self> {
        for (name, set) in &sets {
            check_pairs(latents.packed(), name, set.len(), stated_labels(set))?;
        }
        Ok(Self::Stored(sets.into_iter().map(|(_, set)| set).collect()))
    }

    /// Features computed during training. `name` is the name of the images in messages.
    ///
    /// # Errors
    /// The images are not those of the latents.
    pub fn online(latents: &Latents, name: &str, images: ImageSet, encoders: Vec<Encoder>) -> Result<Self> {
        check_pairs(latents.packed(), name, images.len(), Some(&labels_digest(&images.labels())))?;
        Ok(Self::Online(Box::new(images), encoders))
    }

    /// Makes an encoder anew, as the same encoder on another device.
    pub fn change_encoder(&mut self, encoder: usize, change: impl FnOnce(Encoder) -> Result<Encoder>) -> Result<()> {
        if let Self::Online(_, encoders) = self
            && encoder < encoders.len()
        {
            let changed = change(encoders.remove(encoder))?;
            encoders.insert(encoder, changed);
        }
        Ok(())
    }

    /// Number of encoders.
    pub fn encoders(&self) -> usize {
        match self {
            Self::Stored(sets) => sets.len(),
            Self::Online(_, encoders) => encoders.len(),
        }
    }

    /// Shape of the features of encoder number `encoder`, counted from 0.
    pub fn grid(&self, encoder: usize) -> Result<Grid> {
        let (tokens, dim) = match self {
            Self::Stored(sets) => match sets[encoder].shape(TOKENS)?[..] {
                [tokens, dim] => (tokens, dim),
                ref other => bail!("feature rows have shape {other:?}, not [tokens, dim]"),
            },
            Self::Online(images, encoders) => encoders[encoder].shape(images.height())?,
        };
        Ok(Grid { tokens, dim })
    }

    /// [`tokens`](Self::tokens) on the CPU if they are stored, in the type in which they are;
    /// `None` if they are computed online.
    pub fn read(&self, rows: &[u64], flipped: &[bool]) -> Result<Option<Vec<Tensor>>> {
        match self {
            Self::Stored(sets) => {
                sets.iter().map(|set| stored(set, rows, flipped, &Device::Cpu)).collect::<Result<_>>().map(Some)
            }
            Self::Online(..) => Ok(None),
        }
    }

    /// Class tokens f32 `[n, D]` of the first encoder on the CPU if they are stored; `None` otherwise.
    pub fn read_class_tokens(&self, rows: &[u64]) -> Result<Option<Tensor>> {
        match self {
            Self::Stored(sets) => sets.first().map_or(Ok(None), |set| class_tokens(set, rows, &Device::Cpu)),
            Self::Online(..) => Ok(None),
        }
    }

    /// Features f32 `[n, T, D]` of the images in these rows, one tensor per encoder. They are
    /// detached: no gradient flows into them. Images are prepared on the first device, results are on
    /// the second.
    ///
    /// # Errors
    /// Mirrored images with stored features; only online features cover mirrored images.
    pub fn tokens(&self, rows: &[u64], flipped: &[bool], devices: [&Device; 2]) -> Result<Vec<Tensor>> {
        match self {
            Self::Stored(sets) => {
                sets.iter().map(|set| stored(set, rows, flipped, devices[1])?.to_dtype(DType::F32)).collect()
            }
            Self::Online(..) => Ok(self.outputs(rows, flipped, devices, &[])?.into_iter().map(|o| o.tokens).collect()),
        }
    }

    /// [`tokens`](Self::tokens) with all that encoders show of these images, with the attention of these
    /// blocks, counted from 1; detached.
    ///
    /// # Errors
    /// Stored features; a block that an encoder does not have.
    pub fn outputs(
        &self,
        rows: &[u64],
        flipped: &[bool],
        [device, results]: [&Device; 2],
        blocks: &[usize],
    ) -> Result<Vec<Outputs>> {
        let Self::Online(images, encoders) = self else { bail!("stored features are not computed") };
        let mut pixels = images.batch(rows, device)?;
        if flipped.contains(&true) {
            pixels = mirror(&pixels, flipped)?;
        }
        // An encoder may be computed elsewhere than the training.
        let detached = |tensor: &Tensor| tensor.detach().to_device(results);
        let outputs = |encoder: &Encoder| {
            let Outputs { tokens, class_token, attention } = encoder.outputs(&pixels, blocks)?;
            Ok(Outputs {
                tokens: detached(&tokens)?,
                class_token: class_token.as_ref().map(detached).transpose()?,
                attention: attention.iter().map(detached).collect::<Result<_>>()?,
            })
        };
        encoders.iter().map(outputs).collect()
    }
}

/// Class tokens f32 `[n, D]` of stored features, if they were stored.
pub fn class_tokens(set: &Packed, rows: &[u64], device: &Device) -> Result<Option<Tensor>> {
    match set.tensors().any(|name| name == CLASS_TOKEN) {
        true => set.rows(CLASS_TOKEN, rows, device)?.to_dtype(DType::F32).map(Some),
        false => Ok(None),
    }
}

/// Patch tokens in the type in which they are stored.
fn stored(set: &Packed, rows: &[u64], flipped: &[bool], device: &Device) -> Result<Tensor> {
    if flipped.contains(&true) {
        bail!("stored features do not cover mirrored images");
    }
    set.rows(TOKENS, rows, device)
}
