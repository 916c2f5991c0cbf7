//! A frozen vision transformer with its image preprocessing: u8 images in, patch tokens out.
//!
//! An encoder artifact is `encoder.safetensors` (DINOv2's hub names) and `config.json`
//! ([`EncoderConfig`]); [`adopt`] renames the tensors of other files. Pixels are prepared like
//! REPA's `preprocess_raw_image`: scaled to [0, 1], normalised, resized with torch's bicubic
//! without antialiasing. Whether CLIP's images are resized before or after normalisation makes no
//! difference, because bicubic weights sum to 1.
//!
//! Published encoders follow the image size: one token per 16 x 16 pixels, so that there are as
//! many as a SiT has patches. The position table is resampled to that grid, as timm does. Encoders
//! trained here have one image size.
//!
//! CLIP's projection of the class token is stored with the transformer, for evaluation
//! ([`Embedder`]).

pub mod config;
mod embed;
pub mod head;
mod names;
mod presets;
mod resample;

use super::vit::{Vit, VitConfig};
use crate::nn::elsewhere::Elsewhere;
use crate::nn::params::{self, Frozen, LoadReport, Tensors};
use candle_core::{DType, Device, Result, Tensor, bail};
use config::EncoderConfig;
use head::Head;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub use embed::Embedder;
pub use names::{LANDMARKS, adopt};
pub use presets::NAMES;
pub use resample::{Kernel, resample, resample_positions, resample_positions_dinov2};

pub const WEIGHTS_FILE: &str = "encoder.safetensors";
pub const CONFIG_FILE: &str = "config.json";

/// What an encoder makes of images.
pub struct Outputs {
    /// Patch tokens f32 `[n, T, D]`, row by row of the grid.
    pub tokens: Tensor,
    /// The class token `[n, D]` behind the last norm; `None` if the transformer has none.
    pub class_token: Option<Tensor>,
    /// Attention scores f32 `[n, H, T, T]` between the patches, for each requested block.
    pub attention: Vec<Tensor>,
}

/// A frozen encoder.
#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    vit: Vit,
    head: Option<Head>,
    /// Position tables for the grids used so far.
    tables: Mutex<BTreeMap<usize, Tensor>>,
    /// From prepared images to all tokens.
    transformer: Option<Elsewhere>,
}

impl Encoder {
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let config = read_config(&dir.join(CONFIG_FILE))?;
        let path = dir.join(WEIGHTS_FILE);
        Self::new(&config, params::load(&path, device)?, device)
            .map_err(|e| e.context(format!("cannot use {} as an encoder", path.display())))
    }

    /// From loaded tensors with hub names.
    ///
    /// # Errors
    /// When the tensors do not match the configured transformer; the error lists the differing
    /// names.
    pub fn new(config: &EncoderConfig, tensors: Tensors, device: &Device) -> Result<Self> {
        let (vit, tensors) = checked(config, tensors)?;
        let width = head::head_width(&vit, &tensors);
        let frozen = Frozen::new(tensors);
        let vb = frozen.builder(DType::F32, device);
        let head = width.map(|width| Head::new(&vit, width, vb.clone())).transpose()?;
        let vit = Vit::new(&vit, vb)?;
        Ok(Self { config: config.clone(), vit, head, tables: Mutex::default(), transformer: None })
    }

    /// With a transformer that is computed elsewhere: from prepared images to all tokens, those in
    /// front of the patches, too.
    pub fn computed_by(self, transformer: Elsewhere) -> Self {
        Self { transformer: Some(transformer), ..self }
    }

    /// See [`EncoderConfig::shape`].
    pub fn shape(&self, side: usize) -> Result<(usize, usize)> {
        self.config.shape(side)
    }

    /// Patch tokens f32 `[n, T, D]` of u8 images `[n, 3, H, W]`, row by row of the grid.
    pub fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.outputs(images, &[])?.tokens)
    }

    /// [`tokens`](Self::tokens), and the attention in these blocks, counted from 1.
    pub fn outputs(&self, images: &Tensor, blocks: &[usize]) -> Result<Outputs> {
        let input = self.config.prepare(images)?;
        let (all, attention) = match &self.transformer {
            Some(_) if !blocks.is_empty() => bail!("the attention of an encoder that is computed elsewhere"),
            Some(transformer) => (transformer.of(&input)?, vec![]),
            None => {
                let positions = self.positions(input.dim(2)? / self.config.vit.patch_size)?;
                self.vit.encode_attending(&self.vit.embed(&input)?, &positions, blocks)?
            }
        };
        let class_token = self.config.vit.class_token.then(|| all.narrow(1, 0, 1)?.squeeze(1));
        Ok(Outputs { tokens: self.vit.patches_of(&all)?, class_token: class_token.transpose()?, attention })
    }

    /// The transformer's configuration, with the grid of its table.
    pub(crate) fn transformer(&self) -> &VitConfig {
        self.vit.config()
    }

    /// Patches along a side of images of this side.
    pub(crate) fn grid(&self, side: usize) -> Result<usize> {
        Ok(self.config.input_side(side)? / self.config.vit.patch_size)
    }

    /// What is added to tokens for their place `[1, class + T, D]`.
    pub(crate) fn positions(&self, grid: usize) -> Result<Tensor> {
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

/// The transformer and its tensors for its own grid.
///
/// # Errors
/// See [`Encoder::new`].
fn checked(config: &EncoderConfig, tensors: Tensors) -> Result<(VitConfig, Tensors)> {
    let (vit, tensors) = fitted(config, tensors)?;
    let faults = report(&vit, &tensors)?.faults();
    if !faults.is_empty() {
        bail!("the tensors do not match the configured transformer: {}", faults.join("; "));
    }
    Ok((vit, tensors))
}

/// Reports how these tensors, with hub names, fit the configured transformer.
pub fn fit(config: &EncoderConfig, tensors: Tensors) -> Result<LoadReport> {
    let (vit, tensors) = fitted(config, tensors)?;
    report(&vit, &tensors)
}

fn report(vit: &VitConfig, tensors: &Tensors) -> Result<LoadReport> {
    let (_, mut shapes) = params::census(|vb| Vit::new(vit, vb))?;
    if let Some(width) = head::head_width(vit, tensors) {
        shapes.extend(params::census(|vb| Head::new(vit, width, vb))?.1);
    }
    Ok(params::compare(&shapes, tensors))
}

/// The transformer and its tensors, brought to one grid. An encoder that follows the image size has
/// the grid of its table; for an encoder with one image size the table is resampled to its grid.
fn fitted(config: &EncoderConfig, mut tensors: Tensors) -> Result<(VitConfig, Tensors)> {
    config.check()?;
    let mut vit = config.vit.clone();
    let class = usize::from(vit.class_token);
    // Older artifacts are unchanged copies of the published file.
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
    let text = match erw_base::text::read(path) {
        Ok(t) => t,
        Err(e) => bail!("cannot read {}: {e}", path.display()),
    };
    let config = serde_json::from_str::<EncoderConfig>(&text).map_err(candle_core::Error::wrap);
    match config.and_then(|c| c.check().map(|()| c)) {
        Ok(c) => Ok(c),
        Err(e) => bail!("{}: {e}", path.display()),
    }
}
