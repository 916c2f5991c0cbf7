//! An encoder of alignment features on a GPU: u8 images in, patch and class tokens out, as of
//! [`Encoder`](crate::models::encoder::Encoder). Images are prepared by candle's operations, on the
//! device on which they are.

use super::vit::{VitEvaluation, VitOnGpu};
use crate::models::encoder::config::EncoderConfig;
use crate::models::encoder::{checked, resample_positions};
use crate::nn::params::Tensors;
use candle_core::{Result, Tensor, bail};
use erw_gpu::machine::Machine;
use std::rc::Rc;

/// An encoder for images of one size, before it is on a machine.
pub struct EncoderPlan {
    config: EncoderConfig,
    tensors: Tensors,
    pub vit: VitEvaluation,
}

impl EncoderPlan {
    /// For batches of up to `batch` images of side `side`. `tensors` have hub names.
    ///
    /// # Errors
    /// Tensors of another transformer, or images that the encoder does not take.
    pub fn new(config: &EncoderConfig, tensors: Tensors, side: usize, batch: usize) -> Result<Self> {
        let (vit, tensors) = checked(config, tensors)?;
        let grid = config.input_side(side)? / vit.patch_size;
        Ok(Self { config: config.clone(), tensors, vit: VitEvaluation { config: vit, grid, batch } })
    }

    /// Lays out memory and writes the weights.
    ///
    /// # Errors
    /// A transformer that the GPU's programs do not cover; too little memory.
    pub fn on(self, machine: Rc<dyn Machine>) -> Result<EncoderOnGpu> {
        let Self { config, tensors, vit } = self;
        let Some(table) = tensors.get("pos_embed") else { bail!("there is no tensor pos_embed") };
        let positions = resample_positions(table, usize::from(vit.config.class_token), vit.grid)?;
        let prefix = vit.config.prefix();
        Ok(EncoderOnGpu { config, vit: VitOnGpu::new(machine, &vit, &tensors, &positions)?, prefix })
    }
}

/// An encoder in the memory of a machine.
pub struct EncoderOnGpu {
    config: EncoderConfig,
    vit: VitOnGpu,
    prefix: usize,
}

impl EncoderOnGpu {
    /// Patch tokens f32 `[n, T, D]`, on the CPU, of u8 images `[n, 3, H, W]`, row by row of the grid,
    /// and the class token `[n, D]` of a transformer that has one.
    ///
    /// # Errors
    /// More images than the batch, or of another size.
    pub fn tokens(&mut self, images: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let all = self.vit.encode(&self.config.prepare(images)?)?;
        let patches = all.narrow(1, self.prefix, all.dim(1)?.saturating_sub(self.prefix))?.contiguous()?;
        let class = self.config.vit.class_token.then(|| all.narrow(1, 0, 1)?.squeeze(1));
        Ok((patches, class.transpose()?))
    }
}
