//! An RGB image in memory, and writing it as PNG.

use candle_core::{Result, bail};
use std::path::Path;

/// An RGB image, rows from the top.
#[derive(Debug, Clone, PartialEq)]
pub struct Rgb {
    pub height: usize,
    pub width: usize,
    /// `[height, width, 3]`.
    pub data: Vec<u8>,
}

impl Rgb {
    /// An image of one colour.
    pub fn filled(height: usize, width: usize, colour: [u8; 3]) -> Self {
        Self { height, width, data: colour.repeat(height * width) }
    }

    /// Copies `image` to (top, left), each pixel enlarged `scale` times. It must fit.
    pub fn paste(&mut self, image: &[u8], height: usize, width: usize, scale: usize, top: usize, left: usize) {
        for y in 0..height * scale {
            for x in 0..width * scale {
                let from = (y / scale * width + x / scale) * 3;
                let to = ((top + y) * self.width + left + x) * 3;
                self.data[to..to + 3].copy_from_slice(&image[from..from + 3]);
            }
        }
    }

    /// Fills a rectangle, clipped to the image.
    pub fn fill(&mut self, top: usize, left: usize, height: usize, width: usize, colour: [u8; 3]) {
        let right = (left + width).min(self.width);
        for y in top..(top + height).min(self.height) {
            (left..right).for_each(|x| self.data[(y * self.width + x) * 3..][..3].copy_from_slice(&colour));
        }
    }

    /// Writes the image as PNG.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_png(path, &self.data, self.height, self.width)
    }
}

/// Writes an RGB image (`[height, width, 3]` bytes) as PNG.
pub fn write_png(path: &Path, rgb: &[u8], height: usize, width: usize) -> Result<()> {
    if rgb.len() != height * width * 3 {
        bail!("{}: {} bytes do not make an image of {height} x {width} x 3", path.display(), rgb.len());
    }
    match image::save_buffer(path, rgb, width as u32, height as u32, image::ExtendedColorType::Rgb8) {
        Ok(()) => Ok(()),
        Err(e) => bail!("cannot write {}: {e}", path.display()),
    }
}
