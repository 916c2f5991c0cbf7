//! An RGB image, and its PNG.

use candle_core::{Result, bail};
use std::path::Path;

/// An RGB picture, rows from the top.
#[derive(Debug, Clone, PartialEq)]
pub struct Rgb {
    pub height: usize,
    pub width: usize,
    /// `[height, width, 3]`.
    pub data: Vec<u8>,
}

impl Rgb {
    /// A picture of one colour.
    pub fn filled(height: usize, width: usize, colour: [u8; 3]) -> Self {
        Self { height, width, data: colour.repeat(height * width) }
    }

    /// Copies `image` with its pixels enlarged `scale` times to (top, left). Must fit.
    pub fn paste(&mut self, image: &[u8], height: usize, width: usize, scale: usize, top: usize, left: usize) {
        for y in 0..height * scale {
            for x in 0..width * scale {
                let from = (y / scale * width + x / scale) * 3;
                let to = ((top + y) * self.width + left + x) * 3;
                self.data[to..to + 3].copy_from_slice(&image[from..from + 3]);
            }
        }
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        write_png(path, &self.data, self.height, self.width)
    }
}

/// Writes an RGB picture (`[height, width, 3]` bytes) as PNG.
pub fn write_png(path: &Path, rgb: &[u8], height: usize, width: usize) -> Result<()> {
    if rgb.len() != height * width * 3 {
        bail!("{}: {} bytes for a picture of {height} x {width} x 3", path.display(), rgb.len());
    }
    match image::save_buffer(path, rgb, width as u32, height as u32, image::ExtendedColorType::Rgb8) {
        Ok(()) => Ok(()),
        Err(e) => bail!("cannot write {}: {e}", path.display()),
    }
}
