//! The loss of the warmup: projections of clean latents, at t = 0, are aligned with features.
//! Nothing else is trained.

use super::batch::{Batch, BatchConfig, Examples};
use super::flow::number;
use super::gpu::Feed;
use crate::data::prefetch::MicroBatch;
use crate::diffusion::alignment::Alignment;
use crate::models::sit::SiT;
use crate::train::config::StepLoss;
use candle_core::{DType, Device, Result, Tensor};

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

    /// A micro-batch for the engine on a GPU.
    pub fn feed(&self, batch: Batch) -> Result<Feed> {
        let features = self.examples.features_as_stored(&batch)?;
        let times = Tensor::zeros(batch.slots.len(), DType::F32, &Device::Cpu)?;
        let (point, classes) = (batch.latents, batch.classes);
        let (target, class_token) = (None, None);
        Ok(Feed { times, point, target, classes, class_token, features, alignment_weight: 1.0 })
    }

    pub fn loss(&self, batch: &Batch) -> Result<StepLoss> {
        let device = &self.examples.device;
        let t = Tensor::zeros(batch.slots.len(), DType::F32, device)?;
        let features = self.examples.features(batch)?;
        let (latents, classes) = (batch.latents.to_device(device)?, batch.classes.to_device(device)?);
        let projections = self.model.projections(&latents, &t, &classes)?;
        let losses = self.alignment.losses(features, &projections)?;
        let mut parts = vec![];
        if let Some(relation) = &losses.relation {
            // Without it, the loss is the alignment.
            parts.push(("alignment", number(&losses.alignment)?));
            parts.push(("relation", number(relation)?));
        }
        Ok(StepLoss { loss: self.alignment.sum(losses)?, parts })
    }
}
