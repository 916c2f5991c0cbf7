//! Decodes image files to RGB, equal to the byte to Pillow's `convert("RGB")`.
//!
//! Grey is repeated, palettes are looked up, alpha is dropped (not composited), CMYK in JPEG is
//! read as inverted as Adobe writes it, 16-bit colours keep their high byte, and animations and
//! multi-page files give their first image. One thing differs: Pillow clips 16-bit grey at 255,
//! which makes it white; here it is scaled. The format is detected from the contents. A decoder
//! that fails or panics gives an error. The functions do not know file names; callers add them.

pub mod extras;
mod gif;
mod jpeg;
pub mod limits;
pub mod orientation;
mod pnm;
mod tiff;

use super::rgb::Rgb;
use candle_core::{Result, bail};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use limits::{MAX_MEMORY, sides};
use orientation::Turn;
use orientation::{Orientation, turned};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The maximum size of an image file in bytes.
pub const MAX_BYTES: u64 = 1 << 30;

/// Decodes an image file of any supported format. Also returns the number of decoder warnings about
/// damaged data, which Pillow ignores.
///
/// # Errors
/// When the bytes are not an image, are truncated, or declare more than `MAX_PIXELS` pixels; the
/// latter before anything of that size is allocated.
pub fn decode(bytes: &[u8], orientation: Orientation) -> Result<(Rgb, u32)> {
    let format = match image::guess_format(bytes) {
        Ok(format) => format,
        // The image crate does not detect BigTIFF in every byte order.
        Err(_) if bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+") => ImageFormat::Tiff,
        Err(_) => bail!("not a readable image: its first bytes match no supported format"),
    };
    let sound = |image| (image, 0);
    contained("not a readable image", || match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, orientation),
        ImageFormat::Gif => gif::decode(bytes).map(sound),
        ImageFormat::Tiff => tiff::decode(bytes).map(sound),
        ImageFormat::Pnm => pnm::decode(bytes).map(sound),
        ImageFormat::Png | ImageFormat::WebP | ImageFormat::Bmp => common(bytes, format, orientation).map(sound),
        other => bail!("{} files are not supported", other.extensions_str()[0].to_uppercase()),
    })
}

/// Formats that the image crate reads.
fn common(bytes: &[u8], format: ImageFormat, orientation: Orientation) -> Result<Rgb> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // Width and height are checked below; this limits what a decoder allocates.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    sides(width.into(), height.into())?;
    let turn = match orientation {
        Orientation::Apply => decoder.orientation().map_err(unreadable)?,
        Orientation::Ignore => Turn::NoTransforms,
    };
    let mut image = high_bytes(DynamicImage::from_decoder(decoder).map_err(unreadable)?).into_rgb8();
    if format == ImageFormat::Bmp {
        cut_bits(&mut image, bytes);
    }
    turned(Rgb { height: image.height() as usize, width: image.width() as usize, data: image.into_raw() }, turn)
}

/// Reduces 16-bit colours to their high byte, as Pillow does; scaling would round half of them up.
fn high_bytes(image: DynamicImage) -> DynamicImage {
    if !matches!(image, DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_) | DynamicImage::ImageLumaA16(_)) {
        return image;
    }
    let deep = image.into_rgb16();
    let high = deep.iter().map(|sample| (sample >> 8) as u8).collect();
    RgbImage::from_raw(deep.width(), deep.height(), high).unwrap_or_default().into()
}

/// Widens the 5- and 6-bit samples of a 16-bit BMP as Pillow does: truncated, while the library
/// rounds.
fn cut_bits(image: &mut RgbImage, file: &[u8]) {
    if file.get(28..30) != Some(&[16, 0]) {
        return;
    }
    // The mask of green, if masks are stated.
    let masks = file.get(30) == Some(&3);
    let green = if masks && file.get(58..62) == Some(&0x07e0u32.to_le_bytes()) { 63 } else { 31 };
    for pixel in image.pixels_mut() {
        for (sample, most) in pixel.0.iter_mut().zip([31, green, 31]) {
            let bits = (u16::from(*sample) * most + 127) / 255;
            *sample = (bits * 255 / most) as u8;
        }
    }
}

fn unreadable(e: ImageError) -> candle_core::Error {
    candle_core::Error::msg(format!("not a readable image, or truncated: {e}"))
}

/// Runs a decoder and turns its panic into an error, which says `what` is wrong.
pub(crate) fn contained<T>(what: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read,
        Err(payload) => {
            let words = payload.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
            bail!("{what}: its decoder panicked ({words})")
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_decoder_that_panics_is_an_error() {
        let error = super::contained::<()>("not a readable image", || panic!("index {} out of bounds", 7))
            .unwrap_err()
            .to_string();
        // A backtrace follows if RUST_BACKTRACE is set.
        assert_eq!(error.lines().next(), Some("not a readable image: its decoder panicked (index 7 out of bounds)"));
    }
}
