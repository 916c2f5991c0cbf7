//! Encoders and embedders whose transformer is computed on a GPU. Images are prepared by candle's
//! operations, on the device on which they are; tokens come back to the CPU.

use super::vit::{VitEvaluation, VitOnGpu};
use crate::models::encoder::{Embedder, Encoder};
use crate::nn::elsewhere::Elsewhere;
use crate::nn::params::Tensors;
use candle_core::{Result, Tensor};
use erw_gpu::machine::Machine;
use std::sync::{Arc, Mutex, PoisonError};

/// The transformer of an encoder for images of one size, before it is on a machine.
pub struct TransformerPlan {
    tensors: Tensors,
    positions: Tensor,
    vit: VitEvaluation,
}

impl TransformerPlan {
    /// For batches of `batch` images of side `side`. `tensors` are those of the encoder, with hub
    /// names.
    ///
    /// # Errors
    /// Images that the encoder does not take.
    pub fn of_encoder(encoder: &Encoder, tensors: Tensors, side: usize, batch: usize) -> Result<Self> {
        let grid = encoder.grid(side)?;
        let vit = VitEvaluation { config: encoder.transformer().clone(), grid, batch };
        Ok(Self { tensors, positions: encoder.positions(grid)?, vit })
    }

    /// For batches of `batch` images. `tensors` are those of the encoder, with hub names.
    pub fn of_embedder(embedder: &Embedder, tensors: Tensors, batch: usize) -> Self {
        let vit = VitEvaluation { config: embedder.transformer().clone(), grid: embedder.grid(), batch };
        Self { tensors, positions: embedder.positions().clone(), vit }
    }

    /// Bytes of GPU memory that it takes.
    ///
    /// # Errors
    /// A transformer that the GPU's programs do not cover; the message names why.
    pub fn memory(&self) -> Result<usize> {
        self.vit.memory()
    }

    /// Lays out memory and writes the weights. The result is for
    /// [`Encoder::computed_by`] and [`Embedder::computed_by`].
    ///
    /// # Errors
    /// A transformer that the GPU's programs do not cover; too little memory.
    pub fn on(&self, machine: Arc<dyn Machine>) -> Result<Elsewhere> {
        let vit = Mutex::new(VitOnGpu::new(machine, &self.vit, &self.tensors, &self.positions)?);
        Ok(Elsewhere::new(move |images| Ok(vec![vit.lock().unwrap_or_else(PoisonError::into_inner).encode(images)?])))
    }
}
