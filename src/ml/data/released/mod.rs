//! Latents that others have computed: REPA's folder of npy files, or the safetensors shards of ERW's and LightningDiT's
//! extraction. Behind [`ReadyLatents`] they are the same: posteriors by index, with labels.
//!
//! Opening reads names, headers and labels; rows are read as they are asked for.

pub mod index;
mod moments;
pub mod shards;

use super::source::Source;
use crate::nn::params::Tensors;
use candle_core::{Device, Result, Tensor, bail};
use index::Index;
use moments::Moments;
use shards::Shards;
use std::ops::Range;
use std::path::Path;

#[derive(Debug)]
pub enum ReadyLatents {
    Moments(Moments),
    Shards(Shards),
}

impl ReadyLatents {
    /// Opens a folder of either layout. `images` are what the latents were made of: then files are paired with them by
    /// the numbers in their names, and order and classes are the images'. Shards keep no names, so they cannot be paired.
    pub fn open(root: &Path, images: Option<&Source>) -> Result<Self> {
        let shards = Shards::find(root)?;
        match (shards.is_empty(), images) {
            (true, _) => Ok(Self::Moments(Moments::open(root, images)?)),
            (false, None) => Ok(Self::Shards(Shards::open(&shards)?)),
            (false, Some(_)) => bail!("{}: shards are in an order of their own, which no images tell", root.display()),
        }
    }

    fn index(&self) -> &Index {
        match self {
            Self::Moments(m) => &m.index,
            Self::Shards(s) => &s.index,
        }
    }

    pub fn len(&self) -> u64 {
        self.index().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `[channels, height, width]` of every latent.
    pub fn shape(&self) -> [usize; 3] {
        self.index().shape
    }

    pub fn labels(&self) -> &[i64] {
        &self.index().labels
    }

    /// Class names by label.
    pub fn classes(&self) -> &[String] {
        &self.index().classes
    }

    /// Whether the latents were multiplied by the autoencoder's factor before they were stored.
    pub fn scaled(&self) -> bool {
        matches!(self, Self::Shards(s) if s.scaled)
    }

    /// `mean` and `std`, f32 `[n, C, h, w]`, and `labels` i64 `[n]`. What is not finite or has a negative deviation is
    /// an error that names the file.
    pub fn rows(&self, rows: Range<u64>) -> Result<Tensors> {
        let labels = self.labels()[rows.start as usize..rows.end as usize].to_vec();
        let labels = Tensor::from_vec(labels, (rows.end - rows.start) as usize, &Device::Cpu)?;
        let [mean, std] = match self {
            Self::Moments(m) => m.rows(rows)?,
            Self::Shards(s) => s.rows(rows)?,
        };
        Ok(Tensors::from([("mean".into(), mean), ("std".into(), std), ("labels".into(), labels)]))
    }

    /// Mean and deviation of the mirrored images of these rows, which LightningDiT's shards have.
    pub fn mirrored(&self, rows: Range<u64>) -> Result<[Tensor; 2]> {
        match self {
            Self::Shards(s) => s.mirrored(rows),
            Self::Moments(_) => bail!("npy files have no latents of mirrored images"),
        }
    }
}
