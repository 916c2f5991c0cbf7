//! How an image is brought to `size` x `size`.

use super::decode::limits::MAX_PIXELS;
use super::resize::{Filter, center_crop, resize};
use super::rgb::Rgb;
use candle_core::{Result, bail};
use serde::Deserialize;

/// A way to bring an image to its final size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// [`center_crop`].
    CenterCropDhariwal,
    /// Bicubic resize that ignores the aspect ratio.
    ResizeBicubic,
    /// Centred on black without resizing, for example 28 x 28 digits on a grid that halves often.
    /// The image must not be larger.
    Pad,
    /// No change; the image must have the size already.
    None,
}

impl Transform {
    /// Brings a non-empty `image` to `size` x `size`.
    pub fn apply(self, image: &Rgb, size: usize) -> Result<Rgb> {
        let (h, w) = (image.height, image.width);
        match self {
            Self::CenterCropDhariwal => {
                // The whole image is scaled before it is cropped.
                let scaled = (size as u64).pow(2).saturating_mul(h.max(w) as u64) / h.min(w) as u64;
                if scaled > MAX_PIXELS {
                    bail!("an image of {h} x {w} pixels is too elongated to be scaled to {size} and cropped");
                }
                Ok(center_crop(image, size))
            }
            Self::ResizeBicubic => Ok(resize(image, size, size, Filter::Bicubic)),
            Self::Pad if h <= size && w <= size => Ok(pad(image, size)),
            Self::Pad => {
                bail!(
                    "an image of {h} x {w} pixels does not fit into {size} x {size}; \
                     `transform = \"pad\"` does not crop"
                )
            }
            Self::None if h == size && w == size => Ok(image.clone()),
            Self::None => bail!("an image of {h} x {w} pixels; `transform = \"none\"` needs {size} x {size}"),
        }
    }
}

fn pad(image: &Rgb, size: usize) -> Rgb {
    let mut padded = Rgb::filled(size, size, [0; 3]);
    let (top, left) = ((size - image.height) / 2, (size - image.width) / 2);
    padded.paste(&image.data, image.height, image.width, 1, top, left);
    padded
}
