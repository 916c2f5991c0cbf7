//! The micro-batches of a SiT's training, as functions of the step.

use super::features::Features;
use crate::data::augment::flips;
use crate::data::latents::Latents;
use crate::data::prefetch::MicroBatch;
use crate::models::sit::{SiTConfig, drop_labels};
use crate::rng::{self, Purpose};
use crate::train::batch_indices;
use candle_core::{Device, Result, Tensor};

/// Which examples a step sees.
#[derive(Debug, Clone, Copy)]
pub struct BatchConfig {
    pub seed: u64,
    /// Samples per step.
    pub batch: usize,
    /// Micro-batches they are split into.
    pub accumulate: usize,
    /// Probability of seeing an image mirrored.
    pub flip: f64,
}

/// A micro-batch, on the CPU: it is made while the device is busy.
pub struct Batch {
    /// Rows of the latents and of what is paired with them.
    pub rows: Vec<u64>,
    /// Which of them are mirrored.
    pub flipped: Vec<bool>,
    /// A fresh draw from the posteriors, scaled, `[n, C, h, w]`.
    pub latents: Tensor,
    /// Classes with dropout applied, `[n]`.
    pub classes: Tensor,
    /// Places in the batch of the step: they, not the order of work, name each sample's noise.
    pub slots: Vec<u64>,
    /// What is stored of the features it is aligned with, if it was asked for.
    features: Option<Vec<Tensor>>,
}

/// Latents and, paired with them, features; and the device that trains on them.
pub struct Examples {
    pub latents: Latents,
    pub features: Features,
    pub device: Device,
}

impl Examples {
    /// The micro-batch of a step for this network, with its stored features if it is `aligned`: a
    /// pure function of its arguments and the files.
    pub fn batch(
        &self,
        cfg: &BatchConfig,
        network: &SiTConfig,
        (step, micro): MicroBatch,
        aligned: bool,
    ) -> Result<Batch> {
        let (seed, accumulate) = (cfg.seed, cfg.accumulate.max(1));
        let rows = batch_indices(seed, step, micro, accumulate, cfg.batch, self.latents.len() as usize);
        let first = (cfg.batch * micro / accumulate) as u64;
        let slots: Vec<u64> = (first..first + rows.len() as u64).collect();
        let flipped = flips(cfg.flip, seed, step, &slots);
        let noise = rng::normal_rows(seed, Purpose::Posterior, step, &slots, &self.latents.shape()?, &Device::Cpu)?;
        let latents = self.latents.draw(&rows, &flipped, &noise)?;
        let dropped: Vec<bool> = slots
            .iter()
            .map(|slot| f64::from(rng::stream(seed, Purpose::LabelDrop, step, *slot).uniform()) < network.class_dropout)
            .collect();
        let classes = drop_labels(&self.latents.labels(&rows), &dropped, network.null_class(), &Device::Cpu)?;
        let features = if aligned { self.features.read(&rows, &flipped)? } else { None };
        Ok(Batch { rows, flipped, latents, classes, slots, features })
    }

    /// What the micro-batch is aligned with, `[n, N, Z]` per encoder, on the device. Apart from
    /// [`batch`](Self::batch), since a step whose alignment has no weight need not pay for it, and
    /// since encoders want the device themselves.
    pub fn features(&self, batch: &Batch) -> Result<Vec<Tensor>> {
        match &batch.features {
            Some(stored) => stored.iter().map(|t| t.to_device(&self.device)).collect(),
            None => self.features.tokens(&batch.rows, &batch.flipped, &self.device),
        }
    }
}
