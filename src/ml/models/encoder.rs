//! A frozen vision transformer together with what it does to pixels: u8 images in, patch tokens out.
//!
//! An encoder artifact is `encoder.safetensors` (hub names) and `config.json` ([`EncoderConfig`]). The preparation is
//! that of REPA's `preprocess_raw_image` for DINOv2: scale to [0, 1], normalise, then resize with torch's bicubic
//! without antialiasing. Position tables of another grid are resampled on loading, as timm does.

use super::vit::{Vit, VitConfig};
use crate::ml::weights::{self, Frozen, Tensors};
use candle_core::{DType, Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;

pub const WEIGHTS_FILE: &str = "encoder.safetensors";
pub const CONFIG_FILE: &str = "config.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    pub vit: VitConfig,
    /// Mean and standard deviation of each channel, of pixels in [0, 1].
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

impl EncoderConfig {
    /// DINOv2 ViT-S/B/L with patch 14 at 224 pixels, the 16 x 16 tokens that a SiT at 256 pixels has.
    pub fn dinov2(dim: usize, depth: usize, heads: usize) -> Self {
        let vit = VitConfig {
            image_size: 224,
            patch_size: 14,
            dim,
            depth,
            heads,
            mlp_dim: 4 * dim,
            class_token: true,
            layer_scale: true,
            exact_gelu: true,
            final_norm: true,
            eps: 1e-6,
        };
        // ImageNet, as torchvision has it.
        Self { vit, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }

    /// Presets by the names of REPA's `--enc-type`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "dinov2-vit-s" => Some(Self::dinov2(384, 12, 6)),
            "dinov2-vit-b" => Some(Self::dinov2(768, 12, 12)),
            "dinov2-vit-l" => Some(Self::dinov2(1024, 24, 16)),
            _ => None,
        }
    }

    /// u8 images `[n, 3, H, W]` to what the transformer takes.
    pub fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let channels = |v: [f64; 3]| Tensor::new(&v, images.device())?.to_dtype(DType::F32)?.reshape((1, 3, 1, 1));
        let unit = (images.to_dtype(DType::F32)? / 255.0)?;
        let normal = unit.broadcast_sub(&channels(self.mean)?)?.broadcast_div(&channels(self.std)?)?;
        let size = self.vit.image_size;
        match normal.dims4()? {
            (_, _, h, w) if h == size && w == size => Ok(normal),
            _ => resample(&normal, size, size, Kernel::Torch),
        }
    }
}

#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    vit: Vit,
}

impl Encoder {
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let config = read_config(&dir.join(CONFIG_FILE))?;
        let path = dir.join(WEIGHTS_FILE);
        Self::new(&config, weights::load(&path, device)?, device)
            .map_err(|e| e.context(format!("cannot use {} as an encoder", path.display())))
    }

    /// From loaded tensors. Tensors that the model does not have are an error, but for DINOv2's `mask_token`.
    pub fn new(config: &EncoderConfig, tensors: Tensors, device: &Device) -> Result<Self> {
        let frozen = Frozen::new(fitted(config, tensors)?);
        let vit = Vit::new(&config.vit, frozen.builder(DType::F32, device))?;
        let extra = frozen.unused();
        if !extra.is_empty() {
            bail!("tensors that the configured transformer does not have: {}", extra.join(", "));
        }
        Ok(Self { config: config.clone(), vit })
    }

    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Tokens per image and their dimension.
    pub fn shape(&self) -> (usize, usize) {
        (self.config.vit.tokens(), self.config.vit.dim)
    }

    /// Patch tokens f32 `[n, T, D]` of u8 images `[n, 3, H, W]`.
    pub fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        self.vit.tokens(&self.config.prepare(images)?)
    }
}

/// Tensors of a file as the network takes them: positions on its grid, without the `mask_token` of DINOv2's training.
pub fn fitted(config: &EncoderConfig, mut tensors: Tensors) -> Result<Tensors> {
    tensors.remove("mask_token");
    if let Some(pos) = tensors.get_mut("pos_embed") {
        *pos = resample_positions(pos, usize::from(config.vit.class_token), config.vit.grid())?;
    }
    Ok(tensors)
}

/// Reads and checks a `config.json`.
pub fn read_config(path: &Path) -> Result<EncoderConfig> {
    let text = match std::fs::read_to_string(path) {
        Ok(t) => t,
        Err(e) => bail!("cannot read {}: {e}", path.display()),
    };
    match serde_json::from_str::<EncoderConfig>(&text) {
        Ok(c) => c.vit.check().map(|()| c),
        Err(e) => bail!("{}: {e}", path.display()),
    }
}

/// Brings a position table `[1, prefix + g g, D]` to another grid; positions of prefix tokens stay.
pub fn resample_positions(table: &Tensor, prefix: usize, grid: usize) -> Result<Tensor> {
    let (_, rows, dim) = table.dims3()?;
    let old = rows.saturating_sub(prefix).isqrt();
    if old * old + prefix != rows {
        bail!("a position table of {rows} rows is not a square grid and {prefix} more");
    }
    if old == grid {
        return Ok(table.clone());
    }
    let patches = table.narrow(1, prefix, old * old)?.to_dtype(DType::F32)?;
    let image = patches.reshape((1, old, old, dim))?.permute((0, 3, 1, 2))?.contiguous()?;
    let image = resample(&image, grid, grid, Kernel::Antialiased)?;
    let patches = image.permute((0, 2, 3, 1))?.reshape((1, grid * grid, dim))?;
    Tensor::cat(&[&table.narrow(1, 0, prefix)?.to_dtype(DType::F32)?, &patches], 1)
}

/// Cubic kernels of `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// a = -0.75, four taps whatever the scale, edges repeated.
    Torch,
    /// `antialias=True`: a = -0.5, stretched when shrinking, weights beyond the edge dropped.
    Antialiased,
}

/// Resamples `[n, C, H, W]` f32 to `height` x `width`: one matrix per axis.
pub fn resample(x: &Tensor, height: usize, width: usize, kernel: Kernel) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let rows = Tensor::from_vec(cubic_matrix(h, height, kernel), (height, h), x.device())?;
    let columns = Tensor::from_vec(cubic_matrix(w, width, kernel), (width, w), x.device())?;
    let x = x.reshape((n * c * h, w))?.matmul(&columns.t()?)?.reshape((n * c, h, width))?;
    rows.unsqueeze(0)?.broadcast_matmul(&x)?.reshape((n, c, height, width))
}

/// Weights `[to, from]`, row by row.
fn cubic_matrix(from: usize, to: usize, kernel: Kernel) -> Vec<f32> {
    let scale = from as f64 / to as f64;
    let (a, stretch) = match kernel {
        Kernel::Torch => (-0.75, 1.0),
        Kernel::Antialiased => (-0.5, scale.max(1.0)),
    };
    let reach = 2.0 * stretch;
    let mut matrix = vec![0f32; to * from];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        // torch computes positions in f32, which moves pixels by 6e-5 at the far edge of 256.
        let centre = match kernel {
            Kernel::Torch => f64::from((i as f32 + 0.5) * scale as f32 - 0.5),
            Kernel::Antialiased => (i as f64 + 0.5) * scale - 0.5,
        };
        let taps = (centre - reach).floor() as i64..=(centre + reach).ceil() as i64;
        let mut weights = vec![0f64; from];
        for j in taps {
            let inside = j.clamp(0, from as i64 - 1);
            if kernel == Kernel::Torch || inside == j {
                weights[inside as usize] += cubic((j as f64 - centre) / stretch, a);
            }
        }
        let total: f64 = weights.iter().sum();
        row.iter_mut().zip(&weights).for_each(|(r, w)| *r = (w / total) as f32);
    }
    matrix
}

/// Keys' cubic convolution kernel.
fn cubic(x: f64, a: f64) -> f64 {
    match x.abs() {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}
