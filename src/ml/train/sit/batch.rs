//! The micro-batches of SiT training, each a function of the step.

use super::features::Features;
use crate::data::augment::flips;
use crate::data::latents::Latents;
use crate::data::prefetch::MicroBatch;
use crate::models::encoder::Outputs;
use crate::models::sit::{SiTConfig, drop_labels};
use crate::rng::{self, Purpose};
use crate::train::batch_indices;
use candle_core::{DType, Device, Result, Tensor, bail};

/// Settings that determine the examples of a step.
#[derive(Debug, Clone, Copy)]
pub struct BatchConfig {
    pub seed: u64,
    /// Samples per step.
    pub batch: usize,
    /// Micro-batches per step.
    pub accumulate: usize,
    /// Probability of mirroring an image.
    pub flip: f64,
}

/// A micro-batch on the CPU, where it is built while the device is busy.
pub struct Batch {
    /// Row indices in the latents and in the data paired with them.
    pub rows: Vec<u64>,
    /// Which of the rows are mirrored.
    pub flipped: Vec<bool>,
    /// Fresh samples from the posteriors, scaled, `[n, C, h, w]`.
    pub latents: Tensor,
    /// Class labels after dropout, `[n]`.
    pub classes: Tensor,
    /// Positions in the batch of the step. They select each sample's noise, whatever the order of
    /// work.
    pub slots: Vec<u64>,
    /// Stored alignment features, if they were requested, in the type in which they are stored;
    /// `None` for online features.
    features: Option<Vec<Tensor>>,
    /// Stored class tokens `[n, Z]` of the first encoder, for a network that has one; `None` for online
    /// features.
    class_tokens: Option<Tensor>,
}

/// Latents, the features paired with them, and the training device.
pub struct Examples {
    pub latents: Latents,
    pub features: Features,
    pub device: Device,
}

impl Examples {
    /// Builds a micro-batch for `network`, with its stored features if `aligned`. A pure function
    /// of its arguments and the files.
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
        let with_class = network.class_token.is_some();
        let features = if aligned || with_class { self.features.read(&rows, &flipped)? } else { None };
        let class_tokens = if with_class { self.features.read_class_tokens(&rows)? } else { None };
        Ok(Batch { rows, flipped, latents, classes, slots, features, class_tokens })
    }

    /// The features that the micro-batch is aligned with, f32 `[n, N, Z]` per encoder, on the device.
    /// Separate from [`batch`](Self::batch), because a step whose alignment weight is 0 does not
    /// need them and because encoders run on the device.
    pub fn features(&self, batch: &Batch) -> Result<Vec<Tensor>> {
        match &batch.features {
            Some(stored) => stored.iter().map(|t| t.to_device(&self.device)?.to_dtype(DType::F32)).collect(),
            None => self.features.tokens(&batch.rows, &batch.flipped, [&self.device, &self.device]),
        }
    }

    /// What the encoders make of the images of the micro-batch, with the attention of these blocks,
    /// counted from 1, on `device`. Stored features have class tokens if these were stored.
    ///
    /// # Errors
    /// Attention of stored features, which have none.
    pub fn encoder_outputs(&self, batch: &Batch, blocks: &[usize], device: &Device) -> Result<Vec<Outputs>> {
        if let Some(stored) = &batch.features {
            if !blocks.is_empty() {
                bail!("stored features have no attention");
            }
            let here = |tensor: &Tensor| tensor.to_device(device)?.to_dtype(DType::F32);
            let outputs = |(i, tokens)| {
                let class_token = batch.class_tokens.as_ref().filter(|_| i == 0).map(here).transpose()?;
                Ok(Outputs { tokens: here(tokens)?, class_token, attention: vec![] })
            };
            return stored.iter().enumerate().map(outputs).collect();
        }
        self.features.outputs(&batch.rows, &batch.flipped, [&self.device, device], blocks)
    }

    /// [`features`](Self::features) for a GPU with memory of its own, on the CPU: stored features in the
    /// type in which they are stored.
    pub fn features_as_stored(&self, batch: &Batch) -> Result<Vec<Tensor>> {
        match &batch.features {
            Some(stored) => Ok(stored.clone()),
            None => {
                let outputs = self.encoder_outputs(batch, &[], &Device::Cpu)?;
                Ok(outputs.into_iter().map(|o| o.tokens).collect())
            }
        }
    }
}
