//! How large an image may be, and colours that are no RGB.

use candle_core::{Result, bail};

/// The most pixels of an image: where Pillow, too, takes a file for a decompression bomb.
pub const MAX_PIXELS: u64 = 178_956_970;

/// The most bytes that a decoder may keep: the samples of the largest image, and as much again for what lies beside.
pub(crate) const MAX_MEMORY: u64 = 2 * 8 * MAX_PIXELS;

/// Grey of 16 bits, scaled to 8.
pub(crate) fn scaled(grey: u16) -> u8 {
    ((u32::from(grey) + 128) / 257) as u8
}

/// Ink to light as Pillow has it.
pub(crate) fn of_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let white = 255 - u32::from(k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * white + 128;
        white.saturating_sub(((product >> 8) + product) >> 8) as u8
    })
}

/// Width and height as a file declares them, before anything of that size is allocated.
pub(crate) fn sides(width: u64, height: u64) -> Result<(usize, usize)> {
    match width.saturating_mul(height) {
        0 => bail!("an image without pixels ({width} x {height})"),
        n if n > MAX_PIXELS => bail!("{width} x {height} pixels are more than {MAX_PIXELS}, the most that is read"),
        _ => Ok((width as usize, height as usize)),
    }
}
