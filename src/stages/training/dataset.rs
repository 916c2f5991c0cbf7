//! What `warmup` and `train` share: the training examples as functions of the step, the model's parameters, and the
//! files they leave.

use super::architecture::{Architecture, Depths};
use super::feature_source::{FeatureSource, Mode};
use crate::support::scale::{Scale, labels};
use crate::support::sit_artifact::{MIRRORED, TrainingNote};
use candle_core::{DType, Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::augment::flips;
use erw_ml::data::packed::Packed;
use erw_ml::data::prefetch::MicroBatch;
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::models::sit::{SiTConfig, drop_labels};
use erw_ml::rng::{self, Purpose};
use erw_ml::train::batch_indices;
use erw_runner::kind::attempt::Attempt;
use std::collections::BTreeMap;

/// Which examples a step sees.
pub struct Draw {
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
    pub features: Option<Vec<Tensor>>,
}

/// Latents and, paired with them, features.
pub struct Examples {
    latents: Packed,
    features: FeatureSource,
    labels: Vec<u32>,
    class_names: Vec<String>,
    scale: Scale,
    device: Device,
}

impl Examples {
    /// Opens slot `latents`, and what `features` says the features come from; `None` without alignment.
    pub fn open(attempt: &Attempt, features: Option<Mode>, device: &Device) -> Result<Self> {
        let latents = Packed::open(attempt.input("latents")?)?;
        if latents.is_empty() {
            return Err(Error::stage("there are no latents to train on"));
        }
        let features = FeatureSource::open(attempt, features, &latents, device)?;
        let class_names: Vec<String> = serde_json::from_value(latents.meta()["classes"].clone()).unwrap_or_default();
        let scale = Scale::of(&latents);
        let labels = labels(&latents, class_names.len())?;
        Ok(Self { scale, latents, features, labels, class_names, device: device.clone() })
    }

    /// The network that fits these examples.
    pub fn network(&self, architecture: &Architecture, depths: Depths) -> Result<SiTConfig> {
        let [channels, height, width] = self.latents.shape("mean")?[..] else {
            return Err(Error::stage("latents are not of the shape [channels, height, width]"));
        };
        if height != width {
            return Err(Error::stage(format!("latents of {height}x{width} are not square")));
        }
        let grids = self.features.grids()?;
        let z_dims = grids.iter().map(|g| g.dim).collect();
        let config = architecture.network(depths, channels, height, self.class_names.len(), z_dims)?;
        if let Some(g) = grids.iter().find(|g| g.tokens != config.tokens()) {
            let (input, tokens) = (&g.input, g.tokens);
            let text = format!("input `{input}` gives {tokens} tokens per image, the network has {}", config.tokens());
            return Err(Error::stage(text).hint("choose patch sizes that cut images and latents into equal grids"));
        }
        Ok(config)
    }

    pub fn latents(&self) -> &Packed {
        &self.latents
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    pub fn note(&self, path: NoisePath) -> TrainingNote {
        TrainingNote { format: 1, path, classes: self.class_names.clone(), resolved: BTreeMap::new() }
    }

    /// The micro-batch of a step, with its stored features if it is `aligned`: a pure function of its arguments and the
    /// files.
    pub fn batch(
        &self,
        draw: &Draw,
        config: &SiTConfig,
        (step, micro): MicroBatch,
        aligned: bool,
    ) -> candle_core::Result<Batch> {
        let cpu = &Device::Cpu;
        let (seed, accumulate) = (draw.seed, draw.accumulate.max(1));
        let n = self.latents.len() as usize;
        let ids = batch_indices(seed, step, micro, accumulate, draw.batch, n);
        let first = (draw.batch * micro / accumulate) as u64;
        let slots: Vec<u64> = (first..first + ids.len() as u64).collect();
        let flipped = flips(draw.flip, seed, step, &slots);
        let (mean, std) = (self.moments("mean", &ids, &flipped)?, self.moments("std", &ids, &flipped)?);
        let (mean, std) = (mean.to_dtype(DType::F32)?, std.to_dtype(DType::F32)?);
        let noise = rng::normal_rows(seed, Purpose::Posterior, step, &slots, &mean.dims()[1..], cpu)?;
        let latents = self.scale.apply(&(mean + (std * noise)?)?)?;
        let labels: Vec<u32> = ids.iter().map(|i| self.labels[*i as usize]).collect();
        let dropped: Vec<bool> = slots
            .iter()
            .map(|slot| f64::from(rng::stream(seed, Purpose::LabelDrop, step, *slot).uniform()) < config.class_dropout)
            .collect();
        let classes = drop_labels(&labels, &dropped, config.null_class(), cpu)?;
        let features = if aligned { self.features.stored(&ids, &flipped)? } else { None };
        Ok(Batch { rows: ids, flipped, latents, classes, slots, features })
    }

    /// Rows of `mean` or `std`, those of the mirrored images where `flipped` says so.
    fn moments(&self, tensor: &str, rows: &[u64], flipped: &[bool]) -> candle_core::Result<Tensor> {
        if !flipped.contains(&true) {
            return self.latents.rows(tensor, rows, &Device::Cpu);
        }
        let mirrored = format!("{tensor}{MIRRORED}");
        let row = |(row, flip): (&u64, &bool)| {
            self.latents.rows(if *flip { &mirrored } else { tensor }, &[*row], &Device::Cpu)
        };
        Tensor::cat(&rows.iter().zip(flipped).map(row).collect::<candle_core::Result<Vec<_>>>()?, 0)
    }

    /// Are there latents of mirrored images, if they are asked for?
    pub fn check_flip(&self, flip: f64) -> Result<()> {
        if flip == 0.0 || self.latents.tensors().any(|name| name == format!("mean{MIRRORED}")) {
            return Ok(());
        }
        let text = format!("`flip` is {flip}, but input `latents` has none of mirrored images");
        Err(Error::stage(text).hint("set `flip = true` on the stage that makes them"))
    }

    /// What the micro-batch is aligned with, `[n, N, Z]` per encoder, on the device. Apart from [`batch`](Self::batch), since
    /// a step whose alignment has no weight need not pay for it, and since encoders want the device themselves.
    pub fn features(&self, batch: &Batch) -> candle_core::Result<Vec<Tensor>> {
        match &batch.features {
            Some(stored) => stored.iter().map(|t| t.to_device(&self.device)).collect(),
            None => self.features.tokens(&batch.rows, &batch.flipped, &self.device),
        }
    }

    /// [`features`](Self::features) of these rows, none mirrored.
    pub fn features_of(&self, rows: &[u64]) -> candle_core::Result<Vec<Tensor>> {
        self.features.tokens(rows, &[], &self.device)
    }
}

/// Micro-batches of a step must be equal for their mean to be that of the batch.
pub fn check_batch(batch: usize, accumulate: usize) -> Result<()> {
    if accumulate == 0 || batch == 0 || !batch.is_multiple_of(accumulate) {
        return Err(Error::usage(format!("`batch` {batch} does not divide into `accumulate` {accumulate} parts")));
    }
    Ok(())
}
