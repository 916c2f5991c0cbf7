//! Rotates an image by its EXIF orientation.

use crate::data::rgb::Rgb;
use candle_core::{Result, bail};
pub(super) use image::metadata::Orientation as Turn;
use image::{DynamicImage, RgbImage};
use serde::Deserialize;

/// How to treat the orientation that a camera stored in the file (EXIF).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orientation {
    /// Keep the stored pixels, as ADM, EDM2 and REPA do for ImageNet. TIFF is the exception: Pillow
    /// always rotates it.
    Ignore,
    /// Rotate the image upright.
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
