//! A frozen vision transformer together with what it does to pixels: u8 images in, patch tokens out.
//!
//! An encoder artifact is `encoder.safetensors` (DINOv2's hub names) and `config.json` ([`EncoderConfig`]); files with
//! other names become one by [`adopt`]. Pixels are prepared as by REPA's `preprocess_raw_image`: scaled to [0, 1],
//! normalised, resized with torch's bicubic without antialiasing. Whether CLIP resizes before or after it normalises makes
//! no difference, as bicubic weights add up to one.
//!
//! Published encoders follow the image: a token for every 16 x 16 pixels, so that there are as many as a SiT has
//! patches, with the position table of the file resampled to that grid as timm does. Encoders that were trained here know
//! one size.
//!
//! What makes CLIP's embedding of its class token is kept beside the transformer, for evaluation ([`Embedder`]).

mod embed;
mod names;
mod presets;
mod resample;

pub use embed::Embedder;
pub use names::{LANDMARKS, adopt};
pub use presets::NAMES;
pub use resample::{Kernel, resample, resample_positions, resample_positions_dinov2};

use super::vit::{Vit, VitConfig, is_default};
use crate::ml::weights::{self, Frozen, LoadReport, Tensors};
use candle_core::{DType, Device, Result, Tensor, bail};
use embed::Head;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub const WEIGHTS_FILE: &str = "encoder.safetensors";
pub const CONFIG_FILE: &str = "config.json";

/// How the position table came about. A fixed one can be made anew when a file does without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    #[default]
    Learned,
    /// Sines and cosines of the column in the first half of the channels, of the row in the second (MAE, I-JEPA).
    Sincos,
    /// The row first (MoCo v3).
    SincosRows,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    pub vit: VitConfig,
    /// Mean and standard deviation of each channel, of pixels in [0, 1].
    pub mean: [f64; 3],
    pub std: [f64; 3],
    /// Side of the square of image pixels that becomes one token, after resizing to whole patches. Without it every
    /// image is resized to `vit.image_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels_per_token: Option<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub positions: Positions,
}

impl EncoderConfig {
    /// An encoder of one image size with learned positions.
    pub fn fixed(vit: VitConfig, mean: [f64; 3], std: [f64; 3]) -> Self {
        Self { vit, mean, std, pixels_per_token: None, positions: Positions::Learned }
    }

    pub fn check(&self) -> Result<()> {
        self.vit.check()?;
        if self.pixels_per_token == Some(0) {
            bail!("a token of 0 pixels");
        }
        if !self.mean.iter().chain(&self.std).all(|v| v.is_finite()) || self.std.iter().any(|v| *v <= 0.0) {
            bail!("pixels cannot be normalised with mean {:?} and deviation {:?}", self.mean, self.std);
        }
        Ok(())
    }

    /// Side of what the transformer takes for images of `side` pixels.
    ///
    /// # Errors
    /// When an encoder that follows the image would have to cut a token.
    pub fn input_side(&self, side: usize) -> Result<usize> {
        match self.pixels_per_token {
            None => Ok(self.vit.image_size),
            Some(p) if side > 0 && side.is_multiple_of(p) => Ok(side / p * self.vit.patch_size),
            Some(p) => {
                bail!("the encoder makes a token of every {p} x {p} pixels, which images of {side} are no multiple of")
            }
        }
    }

    /// u8 images `[n, 3, H, W]` to what the transformer takes. Only encoders of one size take images that are not
    /// square.
    pub fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = images.dims4()?;
        if h != w && self.pixels_per_token.is_some() {
            bail!("the encoder takes square images, not {h} x {w}");
        }
        let side = self.input_side(h)?;
        let normal = self.normalise(images)?;
        if (h, w) == (side, side) { Ok(normal) } else { resample(&normal, side, side, Kernel::Torch) }
    }

    /// u8 images `[n, 3, H, W]` to f32 of the same size, about zero.
    fn normalise(&self, images: &Tensor) -> Result<Tensor> {
        let channels = |v: [f64; 3]| Tensor::new(&v, images.device())?.to_dtype(DType::F32)?.reshape((1, 3, 1, 1));
        let unit = (images.to_dtype(DType::F32)? / 255.0)?;
        unit.broadcast_sub(&channels(self.mean)?)?.broadcast_div(&channels(self.std)?)
    }
}

#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    vit: Vit,
    head: Option<Head>,
    /// Position tables of the grids met so far.
    tables: Mutex<BTreeMap<usize, Tensor>>,
}

impl Encoder {
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let config = read_config(&dir.join(CONFIG_FILE))?;
        let path = dir.join(WEIGHTS_FILE);
        Self::new(&config, weights::load(&path, device)?, device)
            .map_err(|e| e.context(format!("cannot use {} as an encoder", path.display())))
    }

    /// From loaded tensors under hub names.
    ///
    /// # Errors
    /// When the tensors are not those of the configured transformer, with the names that differ.
    pub fn new(config: &EncoderConfig, tensors: Tensors, device: &Device) -> Result<Self> {
        let (vit, tensors) = fitted(config, tensors)?;
        let faults = report(&vit, &tensors)?.faults();
        if !faults.is_empty() {
            bail!("not the configured transformer: {}", faults.join("; "));
        }
        let width = embed::head_width(&vit, &tensors);
        let frozen = Frozen::new(tensors);
        let vb = frozen.builder(DType::F32, device);
        let head = width.map(|width| Head::new(&vit, width, vb.clone())).transpose()?;
        let vit = Vit::new(&vit, vb)?;
        Ok(Self { config: config.clone(), vit, head, tables: Mutex::default() })
    }

    /// Tokens of an image of `side` pixels and their dimension.
    ///
    /// # Errors
    /// See [`EncoderConfig::input_side`].
    pub fn shape(&self, side: usize) -> Result<(usize, usize)> {
        let VitConfig { patch_size, dim, .. } = self.config.vit;
        let grid = self.config.input_side(side)? / patch_size;
        Ok((grid * grid, dim))
    }

    /// Patch tokens f32 `[n, T, D]` of u8 images `[n, 3, H, W]`, row by row of the grid.
    pub fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        let input = self.config.prepare(images)?;
        let positions = self.positions(input.dim(2)? / self.config.vit.patch_size)?;
        self.vit.patches_of(&self.vit.encode_at(&self.vit.embed(&input)?, &positions)?)
    }

    fn positions(&self, grid: usize) -> Result<Tensor> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(&grid) {
            return Ok(table.clone());
        }
        let class = usize::from(self.config.vit.class_token);
        let table = resample_positions(self.vit.positions(), class, grid)?;
        tables.insert(grid, table.clone());
        Ok(table)
    }
}

/// What comes of using these tensors, under hub names, in the configured transformer.
pub fn fit(config: &EncoderConfig, tensors: Tensors) -> Result<LoadReport> {
    let (vit, tensors) = fitted(config, tensors)?;
    report(&vit, &tensors)
}

fn report(vit: &VitConfig, tensors: &Tensors) -> Result<LoadReport> {
    let (_, mut shapes) = weights::census(|vb| Vit::new(vit, vb))?;
    if let Some(width) = embed::head_width(vit, tensors) {
        shapes.extend(weights::census(|vb| Head::new(vit, width, vb))?.1);
    }
    Ok(weights::compare(&shapes, tensors))
}

/// The transformer and its tensors, brought to one grid: an encoder that follows the image has the grid of its table, and
/// the table of another is resampled to its one grid.
fn fitted(config: &EncoderConfig, mut tensors: Tensors) -> Result<(VitConfig, Tensors)> {
    config.check()?;
    let mut vit = config.vit.clone();
    let class = usize::from(vit.class_token);
    // Artifacts were once the file as it came.
    tensors.remove("mask_token");
    if let Some(table) = tensors.get_mut("pos_embed")
        && let Some(grid) = resample::table_grid(table, class)
    {
        match config.pixels_per_token {
            Some(_) => vit.image_size = grid * vit.patch_size,
            None => *table = resample_positions(table, class, vit.grid())?,
        }
    }
    Ok((vit, tensors))
}

/// Reads and checks a `config.json`.
pub fn read_config(path: &Path) -> Result<EncoderConfig> {
    let text = match crate::text::read(path) {
        Ok(t) => t,
        Err(e) => bail!("cannot read {}: {e}", path.display()),
    };
    let config = serde_json::from_str::<EncoderConfig>(&text).map_err(candle_core::Error::wrap);
    match config.and_then(|c| c.check().map(|()| c)) {
        Ok(c) => Ok(c),
        Err(e) => bail!("{}: {e}", path.display()),
    }
}
