//! Published latents: REPA's folder of npy files, or safetensors shards as the ERW authors' code
//! and LightningDiT write them. [`ReadyLatents`] presents both as posteriors by index, with labels.
//!
//! Opening reads names, headers and labels; rows are read when asked for.

pub mod index;
mod moments;
pub mod shards;

use super::source::ImageListing;
use crate::nn::params::Tensors;
use candle_core::{Device, Result, Tensor, bail};
use index::Index;
use moments::Moments;
use shards::Shards;
use std::ops::Range;
use std::path::Path;

/// Published latents of either layout.
#[derive(Debug)]
pub enum ReadyLatents {
    Moments(Moments),
    Shards(Shards),
}

impl ReadyLatents {
    /// Opens a folder of either layout. `images` are the images that the latents were made from. If
    /// given, files are paired with them by the numbers in their names, and order and classes are
    /// the images'. Shards keep no names, so they cannot be paired.
    pub fn open(root: &Path, images: Option<&ImageListing>) -> Result<Self> {
        let shards = Shards::find(root)?;
        match (shards.is_empty(), images) {
            (true, _) => Ok(Self::Moments(Moments::open(root, images)?)),
            (false, None) => Ok(Self::Shards(Shards::open(&shards)?)),
            (false, Some(_)) => bail!(
                "{}: shards have no image names and are in shuffled order, so they cannot be paired with images",
                root.display()
            ),
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

    /// Whether the latents were multiplied by the autoencoder's scaling factor before they were
    /// stored.
    pub fn scaled(&self) -> bool {
        matches!(self, Self::Shards(s) if s.scaled)
    }

    /// `mean` and `std`, f32 `[n, C, h, w]`, and `labels` i64 `[n]`. Values that are not finite, or
    /// a negative standard deviation, are an error that names the file.
    pub fn rows(&self, rows: Range<u64>) -> Result<Tensors> {
        let labels = self.labels()[rows.start as usize..rows.end as usize].to_vec();
        let labels = Tensor::from_vec(labels, (rows.end - rows.start) as usize, &Device::Cpu)?;
        let [mean, std] = match self {
            Self::Moments(m) => m.rows(rows)?,
            Self::Shards(s) => s.rows(rows)?,
        };
        Ok(Tensors::from([("mean".into(), mean), ("std".into(), std), ("labels".into(), labels)]))
    }

    /// Mean and standard deviation for the mirrored images of these rows. LightningDiT's shards
    /// have them.
    pub fn mirrored(&self, rows: Range<u64>) -> Result<[Tensor; 2]> {
        match self {
            Self::Shards(s) => s.mirrored(rows),
            Self::Moments(_) => bail!("npy files hold no latents of mirrored images"),
        }
    }
}
