//! Bytes of an image file to RGB, as Pillow's `convert("RGB")` gives it.
//!
//! Grey is repeated, palettes are looked up, alpha is dropped (not composited), CMYK is taken as inverted, which Adobe
//! made the custom, of 16-bit samples the high byte is kept, of an animation the first frame is taken. JPEG decoders may differ
//! from each other by a level or two. One thing differs: 16-bit grey, which Pillow cuts at 255 and so makes white, is
//! scaled. The format is told from the contents. Knows no files: callers add their names.

use super::picture::Rgb;
use candle_core::{Result, bail};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use serde::Deserialize;
use std::io::Cursor;

/// The most pixels of an image: where Pillow, too, takes a file for a decompression bomb.
pub const MAX_PIXELS: u64 = 178_956_970;
/// The most bytes of an image file.
pub const MAX_BYTES: u64 = 1 << 30;

/// What becomes of the orientation that a camera wrote into the file (EXIF).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orientation {
    /// Pixels as they are stored, which is how ADM, EDM2 and REPA prepare ImageNet.
    Ignore,
    /// The image upright.
    Apply,
}

/// Decodes an image file of any supported format. What is no image, is cut short or claims to be larger than
/// [`MAX_PIXELS`] is an error, the latter before anything of that size is allocated.
pub fn decode(bytes: &[u8], orientation: Orientation) -> Result<Rgb> {
    let format = image::guess_format(bytes).map_err(unreadable)?;
    if format == ImageFormat::Jpeg && !jpeg_has_end(bytes) {
        return Err(unreadable(ImageError::IoError(std::io::ErrorKind::UnexpectedEof.into())));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // Sizes are checked below; what a decoder keeps beside the pixels is bounded by twice those of the largest image.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(2 * 8 * MAX_PIXELS);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    match u64::from(width) * u64::from(height) {
        0 => bail!("an image without pixels ({width} x {height})"),
        n if n > MAX_PIXELS => bail!("{width} x {height} pixels are more than {MAX_PIXELS}, the most that is read"),
        _ => {}
    }
    let turn = match orientation {
        Orientation::Apply => decoder.orientation().map_err(unreadable)?,
        Orientation::Ignore => image::metadata::Orientation::NoTransforms,
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    image.apply_orientation(turn);
    let rgb = high_bytes(image).into_rgb8();
    Ok(Rgb { height: rgb.height() as usize, width: rgb.width() as usize, data: rgb.into_raw() })
}

/// Colours of 16 bits cut to 8 as Pillow cuts them; scaling would round half of them up.
fn high_bytes(image: DynamicImage) -> DynamicImage {
    if !matches!(image, DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_) | DynamicImage::ImageLumaA16(_)) {
        return image;
    }
    let deep = image.into_rgb16();
    let high = deep.iter().map(|sample| (sample >> 8) as u8).collect();
    image::RgbImage::from_raw(deep.width(), deep.height(), high).unwrap_or_default().into()
}

fn unreadable(e: ImageError) -> candle_core::Error {
    candle_core::Error::msg(format!("not a readable image, or cut short: {e}"))
}

/// Whether an end-of-image marker follows the first scan. The decoder fills what is missing of a truncated JPEG with
/// grey; a data set should not hold such images unnoticed. Thumbnails before the scan have end markers of their own.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == 0xda {
            return bytes[at..].windows(2).any(|w| w == [0xff, 0xd9]);
        }
        // A fill byte, or a segment with its length.
        at += if marker == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    false
}
