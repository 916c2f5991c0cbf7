//! One side of a comparison: images to measure, or statistics of images that were measured before.

use super::open_images;
use super::provenance::{self, FEATURES_FILE, POOL, Provenance};
use crate::support::files::NOTE_FILE;
use candle_core::{Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::source::left_out::LeftOut;
use erw_ml::evaluation::image_source::ImageSource;
use erw_ml::evaluation::metric::Needs;
use erw_ml::formats::Npz;
use erw_ml::metrics::gaussian::{Gaussian, POOLED, SPATIAL, STATS_FILE};
use erw_ml::nn::params;
use std::path::{Path, PathBuf};

/// Name of the array of images in an npz of statistics.
const IMAGES: &str = "arr_0";

/// A side of a comparison.
pub enum Side {
    Images { pictures: ImageSource, sampler: Option<String>, digest: Option<String> },
    Stats(Statistics),
}

/// An artifact of type `stats`.
pub struct Statistics {
    dir: PathBuf,
    /// `None` if another tool made them.
    note: Option<Provenance>,
    /// Names of the arrays in the npz.
    arrays: Vec<String>,
}

impl Side {
    /// Opens an artifact of type `images`, `samples` or `stats`.
    pub fn open(dir: &Path) -> Result<Self> {
        if dir.join(STATS_FILE).is_file() {
            return Ok(Self::Stats(Statistics::open(dir)?));
        }
        let (pictures, digest) = (open_images::of_artifact(dir)?, provenance::artifact_digest(dir));
        Ok(Self::Images { pictures, sampler: provenance::sampler(dir), digest })
    }

    /// The record of how statistics were made; `None` for images and for statistics of other tools.
    pub fn note(&self) -> Option<&Provenance> {
        match self {
            Self::Images { .. } => None,
            Self::Stats(stats) => stats.note.as_ref(),
        }
    }

    /// How the images were made, if that is recorded.
    pub fn sampler(&self) -> Option<&str> {
        match self {
            Self::Images { sampler, .. } => sampler.as_deref(),
            Self::Stats(stats) => stats.note.as_ref()?.sampler.as_deref(),
        }
    }

    /// Files beside the images that were left out, as far as that is recorded.
    pub fn left_out(&self) -> LeftOut {
        match self {
            Self::Images { pictures, .. } => pictures.left_out().clone(),
            Self::Stats(stats) => stats.note.as_ref().map(|note| note.left_out.clone()).unwrap_or_default(),
        }
    }

    /// The digest of the artifact, if it is in the cache.
    pub fn digest(&self) -> Option<String> {
        match self {
            Self::Images { digest, .. } => digest.clone(),
            Self::Stats(stats) => provenance::artifact_digest(&stats.dir),
        }
    }

    /// Whether both sides are of all images of one artifact, as far as that is recorded.
    pub fn is_of_images_of(&self, other: &Self) -> bool {
        let images = |side: &Self| match side {
            Self::Images { digest, .. } => digest.clone(),
            Self::Stats(stats) => stats.note.as_ref()?.images.clone(),
        };
        images(self).is_some_and(|ours| images(other) == Some(ours)) && self.count() == other.count()
    }

    /// Number of images available to a metric with these needs; `None` if it is unknown.
    pub fn available(&self, needs: Needs) -> Result<Option<u64>> {
        match self {
            Self::Images { pictures, .. } => Ok(Some(pictures.len())),
            Self::Stats(stats) if needs.vectors => Statistics::kept(&stats.dir),
            Self::Stats(_) => Ok(self.count()),
        }
    }

    /// (height, width) of the images; `None` if they are not known to have one size.
    pub fn size(&self) -> Option<(usize, usize)> {
        match self {
            Self::Images { pictures, .. } => pictures.size(),
            Self::Stats(_) => None,
        }
    }

    /// Number of images behind the moments; `None` for published statistics, which do not record
    /// it.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Images { pictures, .. } => Some(pictures.len()),
            Self::Stats(stats) => Some(stats.note.as_ref()?.count),
        }
    }
}

impl Statistics {
    pub fn open(dir: &Path) -> Result<Self> {
        let arrays = Npz::open(&dir.join(STATS_FILE))?.names();
        Ok(Self { dir: dir.to_path_buf(), note: Provenance::read(dir)?, arrays })
    }

    /// The record of how they were made; `None` if another tool made them.
    pub fn note(&self) -> Option<&Provenance> {
        self.note.as_ref()
    }

    fn has(&self, array: &str) -> bool {
        self.arrays.iter().any(|a| a == array)
    }

    /// Mean and covariance of pooled features.
    pub fn pool(&self) -> Result<Gaussian> {
        Ok(Gaussian::read(&self.dir.join(STATS_FILE), POOLED)?)
    }

    pub fn has_spatial(&self) -> bool {
        SPATIAL.iter().all(|name| self.has(name))
    }

    /// Mean and covariance of spatial features.
    pub fn spatial(&self) -> Result<Gaussian> {
        Ok(Gaussian::read(&self.dir.join(STATS_FILE), SPATIAL)?)
    }

    /// Whether features of single images were kept.
    pub fn has_features(&self) -> bool {
        self.dir.join(FEATURES_FILE).is_file()
    }

    /// Number of images whose features were kept in the artifact in `dir`, or can be extracted from
    /// images in it. `None` if the artifact is not of type `stats`.
    pub fn kept(dir: &Path) -> Result<Option<u64>> {
        if !dir.join(STATS_FILE).is_file() {
            return Ok(None);
        }
        let this = Self::open(dir)?;
        Ok(Some(match &this.note {
            Some(note) if this.has_features() => note.features,
            _ if this.has_images() => this.images()?.len(),
            _ => 0,
        }))
    }

    /// Kept features `[n, dim]`, f32.
    pub fn features(&self) -> Result<Tensor> {
        let path = self.dir.join(FEATURES_FILE);
        let mut file = params::load(&path, &Device::Cpu)?;
        let dim = self.note.as_ref().map(|n| n.seen.dim);
        match file.remove(POOL) {
            Some(pool) if pool.dims().len() == 2 && dim == pool.dims().last().copied() => Ok(pool),
            _ => Err(Error::stage(format!(
                "`{}` holds no `{POOL}` with the feature length that {NOTE_FILE} states",
                path.display()
            ))),
        }
    }

    pub fn has_images(&self) -> bool {
        self.has(IMAGES)
    }

    /// The images that are stored with the statistics.
    pub fn images(&self) -> Result<ImageSource> {
        open_images::of_npz(&self.dir.join(STATS_FILE))
    }
}
