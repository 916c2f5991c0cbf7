//! An encoder's configuration, and how images become its input.

use super::resample::{Kernel, resample};
use crate::models::vit::{VitConfig, is_default};
use candle_core::{DType, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// The kind of position table. A fixed one can be computed if a file omits it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    #[default]
    Learned,
    /// Sines and cosines, of the column in the first half of the channels and of the row in the
    /// second (MAE, I-JEPA).
    Sincos,
    /// The same with the row first (MoCo v3).
    SincosRows,
}

/// The `config.json` of an encoder artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    pub vit: VitConfig,
    /// Mean and standard deviation of each channel, for pixels in [0, 1].
    pub mean: [f64; 3],
    pub std: [f64; 3],
    /// Side in image pixels of the square for each token; images are resized to whole patches.
    /// Without it every image is resized to `vit.image_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels_per_token: Option<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub positions: Positions,
}

impl EncoderConfig {
    /// An encoder with one image size and learned positions.
    pub fn fixed(vit: VitConfig, mean: [f64; 3], std: [f64; 3]) -> Self {
        Self { vit, mean, std, pixels_per_token: None, positions: Positions::Learned }
    }

    pub fn check(&self) -> Result<()> {
        self.vit.check()?;
        if self.pixels_per_token == Some(0) {
            bail!("`pixels_per_token` must be above 0");
        }
        if !self.mean.iter().chain(&self.std).all(|v| v.is_finite()) || self.std.iter().any(|v| *v <= 0.0) {
            bail!("cannot normalise pixels with mean {:?} and standard deviation {:?}", self.mean, self.std);
        }
        Ok(())
    }

    /// Side in pixels of the transformer's input for images of side `side`.
    ///
    /// # Errors
    /// When the encoder follows the image size and a token would be cut.
    pub fn input_side(&self, side: usize) -> Result<usize> {
        match self.pixels_per_token {
            None => Ok(self.vit.image_size),
            Some(p) if side > 0 && side.is_multiple_of(p) => Ok(side / p * self.vit.patch_size),
            Some(p) => {
                bail!(
                    "the encoder makes a token of every {p} x {p} pixels, \
                     but images of side {side} are not a multiple of {p}"
                )
            }
        }
    }

    /// Number of tokens for an image of side `side`, and their dimension.
    ///
    /// # Errors
    /// See [`Self::input_side`].
    pub fn shape(&self, side: usize) -> Result<(usize, usize)> {
        let VitConfig { patch_size, dim, .. } = self.vit;
        let grid = self.input_side(side)? / patch_size;
        Ok((grid * grid, dim))
    }

    /// u8 images `[n, 3, H, W]` to the input of the transformer. Images that are not square need an
    /// encoder with one image size.
    pub fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = images.dims4()?;
        if h != w && self.pixels_per_token.is_some() {
            bail!("the encoder needs square images, got {h} x {w}");
        }
        let side = self.input_side(h)?;
        let normal = self.normalise(images)?;
        if (h, w) == (side, side) { Ok(normal) } else { resample(&normal, side, side, Kernel::Torch) }
    }

    /// u8 images `[n, 3, H, W]` to normalised f32 images of the same size.
    pub(crate) fn normalise(&self, images: &Tensor) -> Result<Tensor> {
        let channels = |v: [f64; 3]| Tensor::new(&v, images.device())?.to_dtype(DType::F32)?.reshape((1, 3, 1, 1));
        let unit = (images.to_dtype(DType::F32)? / 255.0)?;
        unit.broadcast_sub(&channels(self.mean)?)?.broadcast_div(&channels(self.std)?)
    }
}
