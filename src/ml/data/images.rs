//! Images by index, whether they come from an `images` artifact or were generated (`samples`).
//!
//! Both are mapped: opening reads headers and labels, a batch copies its own pixels. Knows nothing of resizing;
//! stored images all have one size.

use super::packed::Packed;
use crate::ml::formats::Npz;
use candle_core::{DType, Device, Result, Tensor, bail};
use memmap2::Mmap;
use std::fs::File;
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
    /// A mapped npz and the offset of its first image.
    Npz(Mmap, usize),
}

impl ImageSet {
    /// Opens an `images` artifact (packed) or a `samples` artifact (`samples.npz`).
    pub fn open(dir: &Path) -> Result<Self> {
        let npz = dir.join("samples.npz");
        if npz.exists() {
            let mut set = Self::open_npz(&npz)?;
            if let Ok(text) = crate::text::read(dir.join("meta.json"))
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

    /// Opens an npz of `arr_0` u8 `[N,H,W,3]` and, if there are labels, `arr_1` i64 `[N]`; the format of the ADM
    /// evaluation suite.
    pub fn open_npz(path: &Path) -> Result<Self> {
        Self::of_npz(path, true)
    }

    /// The same without labels, whatever `arr_1` is: other tools write there what they like.
    pub fn open_npz_unlabelled(path: &Path) -> Result<Self> {
        Self::of_npz(path, false)
    }

    fn of_npz(path: &Path, labelled: bool) -> Result<Self> {
        let shown = path.display();
        let npz = Npz::open(path)?;
        let Some(images) = npz.find("arr_0", "u1")? else {
            bail!("{shown}: no array `arr_0`, but {}", npz.names().join(", "))
        };
        let &[n, height, width, 3] = images.shape.as_slice() else {
            bail!("{shown}: `arr_0` has shape {:?}, not [N, H, W, 3]", images.shape)
        };
        let file = File::open(path)?;
        // As for packed shards: samples are written once.
        #[expect(unsafe_code, reason = "mapping a file that nothing writes to any more")]
        let map = unsafe { Mmap::map(&file) }?;
        let labels = if labelled { npz.find("arr_1", "i8")? } else { None };
        let labels = match labels {
            Some(l) if l.shape == [n] => {
                let at = l.start;
                map[at..at + 8 * n]
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default()))
                    .collect()
            }
            Some(l) => bail!("{shown}: {n} images, labels of shape {:?}", l.shape),
            None => vec![],
        };
        let pixels = Pixels::Npz(map, images.start);
        Ok(Self { pixels, count: n as u64, height, width, labels, classes: vec![] })
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

    /// Names of the classes, by label. Empty when nobody said.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// A label per image; empty for samples without labels.
    pub fn labels(&self) -> Vec<i64> {
        self.labels.clone()
    }

    /// Images by index as u8 `[n,3,H,W]`.
    pub fn batch(&self, indices: &[u64], device: &Device) -> Result<Tensor> {
        let hwc = match &self.pixels {
            Pixels::Packed(p) => p.rows("images", indices, device)?,
            Pixels::Npz(map, start) => {
                let size = self.height * self.width * 3;
                let mut data = Vec::with_capacity(size * indices.len());
                for &i in indices {
                    if i >= self.count {
                        bail!("image {i} of {}", self.count);
                    }
                    let at = start + i as usize * size;
                    data.extend_from_slice(&map[at..at + size]);
                }
                Tensor::from_vec(data, (indices.len(), self.height, self.width, 3), device)?
            }
        };
        hwc.permute((0, 3, 1, 2))?.contiguous()
    }
}

/// u8 pixels to f32 in [-1, 1]: x / 127.5 - 1.
pub fn to_unit(images: &Tensor) -> Result<Tensor> {
    images.to_dtype(DType::F32)?.affine(1.0 / 127.5, -1.0)
}

fn class_names(meta: &serde_json::Value) -> Vec<String> {
    let names = meta.get("classes").and_then(|c| c.as_array()).map(Vec::as_slice).unwrap_or_default();
    names.iter().filter_map(|n| n.as_str().map(str::to_string)).collect()
}
