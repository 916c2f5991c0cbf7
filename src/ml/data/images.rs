//! Images by index, from an `images` artifact or generated `samples`.
//!
//! Both are mapped: opening reads headers and labels, and a batch copies its own pixels. A deflated
//! npz is inflated as it is read. All images have one size; this file does not resize.

use super::packed::Packed;
use crate::formats::{Npz, PixelArray};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::path::Path;

/// An opened set of equally sized RGB images.
#[derive(Debug)]
pub struct ImageSet {
    pixels: Pixels,
    count: u64,
    height: usize,
    width: usize,
    labels: Vec<i64>,
    classes: Vec<String>,
}

#[derive(Debug)]
enum Pixels {
    Packed(Packed),
    Array(PixelArray),
}

impl ImageSet {
    /// Opens an `images` artifact (packed) or a `samples` artifact (`samples.npz`).
    pub fn open(dir: &Path) -> Result<Self> {
        let npz = dir.join("samples.npz");
        if npz.exists() {
            let mut set = Self::open_npz(&npz)?;
            if let Ok(text) = erw_base::text::read(dir.join("meta.json"))
                && let Ok(meta) = serde_json::from_str::<serde_json::Value>(&text)
            {
                set.classes = class_names(&meta);
            }
            return Ok(set);
        }
        let packed = Packed::open(dir)?;
        let (height, width) = match packed.shape("images")?.as_slice() {
            &[h, w, 3] if packed.dtype("images")? == DType::U8 => (h, w),
            other => bail!("{}: `images` has rows {other:?}, not u8 [H, W, 3]", dir.display()),
        };
        let labels = packed.all("labels", &Device::Cpu)?.to_vec1::<i64>()?;
        let classes = class_names(packed.meta());
        Ok(Self { count: packed.len(), pixels: Pixels::Packed(packed), height, width, labels, classes })
    }

    /// Opens an npz with `arr_0` u8 `[N,H,W,3]` and optionally labels `arr_1` i64 `[N]`, the format
    /// of the ADM evaluation suite.
    pub fn open_npz(path: &Path) -> Result<Self> {
        let shown = path.display();
        let mut set = Self::open_array(PixelArray::of_npz(path)?);
        let mut npz = Npz::open(path)?;
        if npz.names().iter().any(|name| name == "arr_1") {
            let labels = npz.read("arr_1")?;
            set.labels = match (labels.dtype(), labels.dims()) {
                (DType::I64, &[n]) if n as u64 == set.count => labels.to_vec1()?,
                (ty, shape) => {
                    bail!("{shown}: {} images, labels of type {} and shape {shape:?}", set.count, ty.as_str())
                }
            };
        }
        Ok(set)
    }

    /// Opens the images of an array without labels.
    pub fn open_array(pixels: PixelArray) -> Self {
        let (count, height, width) = (pixels.len(), pixels.height(), pixels.width());
        Self { pixels: Pixels::Array(pixels), count, height, width, labels: vec![], classes: vec![] }
    }

    pub fn len(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn height(&self) -> usize {
        self.height
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// Class names by label. Empty if the set does not name them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// One label per image; empty if the samples have no labels.
    pub fn labels(&self) -> Vec<i64> {
        self.labels.clone()
    }

    /// Images by index as u8 `[n,3,H,W]`.
    pub fn batch(&self, indices: &[u64], device: &Device) -> Result<Tensor> {
        let hwc = match &self.pixels {
            Pixels::Packed(p) => p.rows("images", indices, device)?,
            Pixels::Array(array) => {
                let mut data = Vec::with_capacity(self.height * self.width * 3 * indices.len());
                indices.iter().try_for_each(|i| array.append(*i, &mut data))?;
                Tensor::from_vec(data, (indices.len(), self.height, self.width, 3), device)?
            }
        };
        hwc.permute((0, 3, 1, 2))?.contiguous()
    }
}

/// u8 pixels to f32 in [-1, 1]: 0 becomes -1 and 255 becomes 1.
pub fn to_unit(images: &Tensor) -> Result<Tensor> {
    images.to_dtype(DType::F32)?.affine(1.0 / 127.5, -1.0)
}

fn class_names(meta: &serde_json::Value) -> Vec<String> {
    let names = meta.get("classes").and_then(|c| c.as_array()).map(Vec::as_slice).unwrap_or_default();
    names.iter().filter_map(|n| n.as_str().map(str::to_string)).collect()
}
