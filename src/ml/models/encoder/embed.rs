//! Encoders as feature networks: one vector per image, as published distances use it.
//!
//! DINOv2 is as in FD-DINOv2 (Stein et al. 2023, dgm-eval): 224 pixels, the class token after the
//! last norm. CLIP is as in CMMD (Jayasumana et al. 2024, cmmd-pytorch): the centre square at the
//! network's own size, the class token through a norm and the projection; CMMD normalises the
//! embeddings itself. Both resize with Pillow to 8 bits, unlike REPA's alignment, which uses patch
//! tokens of larger images. It does not know metrics.

use super::config::EncoderConfig;
use super::head::has_head;
use super::{Encoder, NAMES, resample_positions, resample_positions_dinov2};
use crate::data::resize::{Filter, center_square, resize};
use crate::data::rgb::Rgb;
use crate::models::feature_network::{FeatureNetwork, Outputs};
use crate::models::vit::VitConfig;
use crate::nn::elsewhere::Elsewhere;
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::Module;
use rayon::prelude::*;
use std::path::Path;

/// The image side at which dgm-eval runs DINOv2, whose position tables are larger.
const DINOV2_SIDE: usize = 224;

/// An encoder that gives one vector per image.
pub struct Embedder {
    encoder: Encoder,
    name: &'static str,
    preparation: String,
    side: usize,
    /// For the grid of `side`.
    positions: Tensor,
}

impl Embedder {
    /// Opens an `encoder` artifact.
    ///
    /// # Errors
    /// When the artifact lacks CLIP's projection.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        Self::new(Encoder::open(dir, device)?)
            .map_err(|e| e.context(format!("cannot use {} for embeddings", dir.display())))
    }

    /// From an encoder of any kind.
    pub fn new(encoder: Encoder) -> Result<Self> {
        let vit = encoder.vit.config();
        if has_head(vit) && encoder.head.is_none() {
            bail!(
                "this CLIP lacks `ln_post` and `proj`, which compute the embedding; \
                 import the encoder from a file that has both"
            );
        }
        // Only DINOv2 has LayerScale.
        let side = if vit.layer_scale { vit.image_size.min(DINOV2_SIDE) } else { vit.image_size };
        let grid = side / vit.patch_size;
        let table = encoder.vit.positions();
        let positions = match vit.layer_scale && vit.class_token && vit.registers == 0 {
            true => resample_positions_dinov2(table, grid)?,
            false => resample_positions(table, usize::from(vit.class_token), grid)?,
        };
        let preparation = describe(vit, side);
        Ok(Self { name: name(&encoder.config), preparation, side, positions, encoder })
    }

    /// As [`Encoder::computed_by`].
    pub fn computed_by(self, transformer: Elsewhere) -> Self {
        Self { encoder: self.encoder.computed_by(transformer), ..self }
    }

    /// The transformer's configuration, with the grid of its table.
    pub(crate) fn transformer(&self) -> &VitConfig {
        self.encoder.transformer()
    }

    /// Patches along a side.
    pub(crate) fn grid(&self) -> usize {
        self.side / self.transformer().patch_size
    }

    /// What is added to tokens for their place `[1, class + T, D]`.
    pub(crate) fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// u8 images `[n, 3, H, W]` to f32 `[n, 3, side, side]`, normalised.
    pub fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let [n, 3, height, width] = *images.dims() else {
            bail!("an encoder needs u8 images [n, 3, H, W], got {:?}", images.dims())
        };
        if images.elem_count() == 0 || images.dtype() != DType::U8 {
            bail!("an encoder needs u8 images [n, 3, H, W], got {:?} {:?}", images.dtype(), images.dims());
        }
        let (side, square) = (self.side, has_head(self.encoder.vit.config()));
        let pixels = images.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1::<u8>()?;
        let small = |data: &[u8]| {
            let image = Rgb { height, width, data: data.to_vec() };
            let image = if square { center_square(&image) } else { image };
            resize(&image, side, side, Filter::Bicubic).data
        };
        let small: Vec<u8> = pixels.par_chunks_exact(height * width * 3).flat_map_iter(small).collect();
        let small = Tensor::from_vec(small, (n, side, side, 3), images.device())?;
        self.encoder.config.normalise(&small.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// Prepared images f32 `[n, 3, side, side]` to vectors f32 `[n, dim]`.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let vit = &self.encoder.vit;
        let tokens = match &self.encoder.transformer {
            Some(transformer) => transformer.of(images)?,
            None => vit.encode_at(&vit.embed(images)?, &self.positions)?,
        };
        if !vit.config().class_token {
            return vit.patches_of(&tokens)?.mean(1);
        }
        let class = tokens.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        match &self.encoder.head {
            Some(head) => head.projection.forward(&head.norm.forward(&class)?),
            None => Ok(class),
        }
    }
}

/// Describes the vector and its computation, for comparing values. Part of result files: do not
/// change.
fn describe(vit: &VitConfig, side: usize) -> String {
    let vector = match (vit.class_token, has_head(vit)) {
        (_, true) => "projected embedding",
        (false, _) => "mean of patch tokens",
        (true, _) if vit.final_norm => "class token after the last norm",
        (true, _) => "class token of the last block",
    };
    let square = if has_head(vit) { "middle square, " } else { "" };
    format!("{square}antialiased bicubic to {side} as Pillow in 8 bits; {vector}")
}

/// The preset of the encoder, or a general name.
fn name(config: &EncoderConfig) -> &'static str {
    let is = |name: &&&str| EncoderConfig::named(name).is_some_and(|preset| preset == *config);
    NAMES.iter().find(is).copied().unwrap_or("encoder")
}

impl FeatureNetwork for Embedder {
    fn name(&self) -> &str {
        self.name
    }

    fn preparation(&self) -> &str {
        &self.preparation
    }

    fn dim(&self) -> usize {
        self.encoder.head.as_ref().map_or(self.encoder.config.vit.dim, |head| head.width)
    }

    fn outputs(&self, images_u8: &Tensor) -> Result<Outputs> {
        Ok(Outputs { pool: self.forward(&self.prepare(images_u8)?)?, spatial: None, logits: None })
    }
}
