//! Turning an image as its EXIF tag says.

use crate::data::rgb::Rgb;
use candle_core::{Result, bail};
pub(super) use image::metadata::Orientation as Turn;
use image::{DynamicImage, RgbImage};
use serde::Deserialize;

/// What becomes of the orientation that a camera wrote into the file (EXIF).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orientation {
    /// Pixels as they are stored, which is how ADM, EDM2 and REPA prepare ImageNet. (But TIFF, which Pillow always turns.)
    Ignore,
    /// The image upright.
    Apply,
}

pub(crate) fn turned(image: Rgb, turn: Turn) -> Result<Rgb> {
    if turn == Turn::NoTransforms {
        return Ok(image);
    }
    let Some(pixels) = RgbImage::from_raw(image.width as u32, image.height as u32, image.data) else {
        bail!("pixels do not fill {} x {}", image.width, image.height)
    };
    let mut image = DynamicImage::from(pixels);
    image.apply_orientation(turn);
    let image = image.into_rgb8();
    Ok(Rgb { height: image.height() as usize, width: image.width() as usize, data: image.into_raw() })
}
