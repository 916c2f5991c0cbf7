//! The loss of the warmup: projections of clean latents, at t = 0, are aligned with features.
//! Nothing else is trained.

use super::batch::{Batch, BatchConfig, Examples};
use crate::data::prefetch::MicroBatch;
use crate::diffusion::alignment::Alignment;
use crate::models::sit::SiT;
use crate::train::config::StepLoss;
use candle_core::{DType, Result, Tensor};

/// Warmup training of a SiT.
pub struct Warmup<'a> {
    pub examples: &'a Examples,
    pub model: &'a SiT,
    pub batches: BatchConfig,
    pub alignment: Alignment,
}

impl Warmup<'_> {
    pub fn batch(&self, place: MicroBatch) -> Result<Batch> {
        self.examples.batch(&self.batches, self.model.config(), place, true)
    }

    pub fn loss(&self, batch: &Batch) -> Result<StepLoss> {
        let device = &self.examples.device;
        let t = Tensor::zeros(batch.slots.len(), DType::F32, device)?;
        let features = self.examples.features(batch)?;
        let (latents, classes) = (batch.latents.to_device(device)?, batch.classes.to_device(device)?);
        let projections = self.model.projections(&latents, &t, &classes)?;
        Ok(StepLoss { loss: self.alignment.loss(features, &projections)?, parts: vec![] })
    }
}
