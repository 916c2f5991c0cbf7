//! Limits on the size of an image, and conversion of colours that are not RGB.

use candle_core::{Result, bail};

/// The maximum number of pixels of an image. Pillow treats larger files as decompression bombs,
/// too.
pub const MAX_PIXELS: u64 = 178_956_970;

/// The maximum memory of a decoder in bytes: the samples of the largest image, twice.
pub(crate) const MAX_MEMORY: u64 = 2 * 8 * MAX_PIXELS;

/// 16-bit grey scaled to 8 bits.
pub(crate) fn scaled(grey: u16) -> u8 {
    ((u32::from(grey) + 128) / 257) as u8
}

/// CMYK to RGB as in Pillow.
pub(crate) fn of_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let white = 255 - u32::from(k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * white + 128;
        white.saturating_sub(((product >> 8) + product) >> 8) as u8
    })
}

/// Checks the width and height that a file declares, before anything of that size is allocated.
pub(crate) fn sides(width: u64, height: u64) -> Result<(usize, usize)> {
    match width.saturating_mul(height) {
        0 => bail!("an image without pixels ({width} x {height})"),
        n if n > MAX_PIXELS => bail!("{width} x {height} pixels are more than the limit of {MAX_PIXELS}"),
        _ => Ok((width as usize, height as usize)),
    }
}
