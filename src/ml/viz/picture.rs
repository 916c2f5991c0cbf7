//! Writes images: PNG files, contact sheets, and the `samples.npz` that evaluation tools read.
//! Equal samples give equal bytes.

use crate::data::rgb::Rgb;
use crate::formats::NpzFile;
use candle_core::{DType, Result, Tensor};
use std::path::Path;

/// Images `[n,3,H,W]` in [-1, 1] to u8 `[n,H,W,3]`: 127.5 x + 128, clamped and truncated, which
/// rounds to nearest. SiT and DiT do the same; truncating `255 (x+1)/2` would darken every pixel by
/// half a level.
pub fn to_u8(images: &Tensor) -> Result<Tensor> {
    let x = images.to_dtype(DType::F32)?.affine(127.5, 128.0)?.clamp(0f32, 255f32)?;
    x.to_dtype(DType::U8)?.permute((0, 2, 3, 1))?.contiguous()
}

/// Arranges images (`[n, height, width, 3]` bytes) in rows of `columns`, each enlarged `scale`
/// times, on white with gaps of two pixels.
pub fn contact_sheet(images: &[u8], height: usize, width: usize, columns: usize, scale: usize) -> Rgb {
    const GAP: usize = 2;
    let (bytes, scale) = ((height * width * 3).max(1), scale.max(1));
    let n = images.len() / bytes;
    let columns = columns.clamp(1, n.max(1));
    let rows = n.div_ceil(columns);
    let (ch, cw) = (height * scale + GAP, width * scale + GAP);
    let mut sheet = Rgb::filled(rows * ch + GAP, columns * cw + GAP, [255; 3]);
    for (i, image) in images.chunks_exact(bytes).enumerate() {
        sheet.paste(image, height, width, scale, GAP + i / columns * ch, GAP + i % columns * cw);
    }
    sheet
}

/// Writes `samples.npz` image by image: `arr_0` u8 `[N,H,W,3]`, `arr_1` i64 `[N]` labels.
#[derive(Debug)]
pub struct NpzWriter {
    file: NpzFile,
    count: usize,
}

impl NpzWriter {
    /// The number of images is needed first, because it is in the header.
    pub fn create(path: &Path, count: usize, height: usize, width: usize) -> Result<Self> {
        let mut file = NpzFile::create(path)?;
        file.begin("arr_0", "|u1", 1, &[count, height, width, 3])?;
        Ok(Self { file, count })
    }

    /// Appends images, `[n,H,W,3]` bytes.
    pub fn push(&mut self, images: &[u8]) -> Result<()> {
        self.file.write(images)
    }

    /// Writes the labels and closes the file.
    pub fn finish(mut self, labels: &[i64]) -> Result<()> {
        self.file.begin("arr_1", "<i8", 8, &[self.count])?;
        labels.iter().try_for_each(|label| self.file.write(&label.to_le_bytes()))?;
        self.file.finish()
    }
}

/// Writes a whole `samples.npz` from `images`, `[n,H,W,3]` bytes with n labels.
pub fn write_npz(path: &Path, images: &[u8], height: usize, width: usize, labels: &[i64]) -> Result<()> {
    let mut npz = NpzWriter::create(path, labels.len(), height, width)?;
    npz.push(images)?;
    npz.finish(labels)
}
