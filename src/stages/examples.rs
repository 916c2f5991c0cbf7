//! What `warmup` and `train` share: the training examples as functions of the step, the model's parameters, and the
//! files they leave.

use super::averages::{file_of_decay, file_of_step};
use super::feature_source::{FeatureSource, Mode};
use super::support::{create_dir, write_json, write_lines};
use crate::error::{Error, Result};
use crate::ml::augment::flips;
use crate::ml::data::packed::Packed;
use crate::ml::models::projector::ProjectorKind;
use crate::ml::models::sit::{MlpKind, SiT, SiTConfig, drop_labels};
use crate::ml::path::Path as NoisePath;
use crate::ml::prefetch::Place;
use crate::ml::rng::{self, Purpose};
use crate::ml::train::{Snapshots, Trained, batch_indices};
use crate::ml::weights::{self, Tensors};
use crate::runner::attempt::Attempt;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// `model = "custom"` takes its sizes from parameters of their own.
pub const CUSTOM: &str = "custom";

/// The parameters that choose a network, as the manifests of both phases name them. Flattened into theirs.
#[derive(Debug, Deserialize)]
pub struct Architecture {
    model: String,
    hidden: Option<usize>,
    blocks: Option<usize>,
    heads: Option<usize>,
    patch_size: Option<usize>,
    rope: bool,
    qk_norm: bool,
    mlp: MlpKind,
    class_dropout: f64,
    projector: ProjectorKind,
    projector_dim: usize,
}

/// Ending of the names of tensors that belong to the mirrored image.
pub const MIRRORED: &str = "_flip";

/// Where a phase reads its projections, and where it ends.
#[derive(Debug, Clone)]
pub struct Depths {
    /// Block, from 1, behind which the projector of each encoder sits; a single one stands for all.
    pub encoder: Vec<usize>,
    /// Blocks of a warmup; `None` for the full network.
    pub warmup: Option<usize>,
}

impl Architecture {
    /// The published name, or [`CUSTOM`].
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Hidden width, blocks, heads, patch size.
    pub fn sizes(&self) -> Result<(usize, usize, usize, usize)> {
        let own =
            [("hidden", self.hidden), ("blocks", self.blocks), ("heads", self.heads), ("patch_size", self.patch_size)];
        if self.model != CUSTOM {
            if let Some((name, _)) = own.iter().find(|(_, value)| value.is_some()) {
                return Err(Error::usage(format!("`{name}` is given, but `model = \"{}\"` has its own", self.model))
                    .hint("sizes are for `model = \"custom\"`"));
            }
            return SiTConfig::sizes(&self.model).map_err(|e| Error::usage(e.to_string()));
        }
        let needed = |i: usize| {
            let (name, value) = own[i];
            value.ok_or_else(|| Error::usage(format!("`model = \"custom\"` needs `{name}`")))
        };
        Ok((needed(0)?, needed(1)?, needed(2)?, needed(3)?))
    }

    /// The network for latents `[channels, side, side]` of so many classes and encoders of these dimensions.
    fn network(
        &self,
        depths: Depths,
        channels: usize,
        side: usize,
        num_classes: usize,
        z_dims: Vec<usize>,
    ) -> Result<SiTConfig> {
        let (hidden, depth, heads, patch_size) = self.sizes()?;
        let config = SiTConfig {
            input_size: side,
            in_channels: channels,
            patch_size,
            hidden,
            depth,
            heads,
            mlp_ratio: 4.0,
            mlp: self.mlp,
            num_classes,
            class_dropout: self.class_dropout,
            z_dims,
            projector: self.projector,
            projector_dim: self.projector_dim,
            encoder_depth: depths.encoder,
            rope: self.rope,
            qk_norm: self.qk_norm,
            warmup_depth: depths.warmup,
        };
        config.check().map_err(|e| Error::usage(e.to_string()))?;
        Ok(config)
    }

    /// Checks what does not depend on the inputs, by trying latents that every patch size divides.
    pub fn check(&self, depths: Depths) -> Result<()> {
        let patch = self.sizes()?.3.max(1);
        let encoders = vec![1; depths.encoder.len()];
        self.network(depths, 4, 8 * patch, 1, encoders).map(drop)
    }
}

/// What a sampler has to know of a training, in `training.json` beside the weights.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrainingNote {
    pub format: u32,
    pub path: NoisePath,
    /// Class names by label.
    pub classes: Vec<String>,
    /// Values of parameters that were left out and follow from the network's size and the method.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resolved: BTreeMap<String, serde_json::Value>,
}

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
        (step, micro): Place,
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

/// How latents are brought to the size that they are trained on: factor (x - shift).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    factor: f64,
    shift: f64,
}

impl Scale {
    pub fn of(latents: &Packed) -> Self {
        let number = |key: &str, absent: f64| latents.meta()[key].as_f64().unwrap_or(absent);
        Self { factor: number("scaling_factor", 1.0), shift: number("shift_factor", 0.0) }
    }

    pub fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.affine(self.factor, -self.shift * self.factor)
    }
}

/// All labels, each one of the classes.
pub fn labels(latents: &Packed, classes: usize) -> Result<Vec<u32>> {
    let stored = latents.all("labels", &Device::Cpu)?.to_vec1::<i64>()?;
    stored
        .into_iter()
        .map(|label| match u32::try_from(label) {
            Ok(l) if (l as usize) < classes => Ok(l),
            _ => Err(Error::stage(format!("a latent has label {label}, but there are {classes} classes"))),
        })
        .collect()
}

/// Writes the averages that a training kept on its way into its artifact.
pub fn write_snapshots(dir: &Path, model: &SiT, snapshots: &Snapshots) -> Result<()> {
    let one = |step: &u64| save(model, snapshots.load(*step)?, &dir.join(file_of_step(*step)));
    Ok(snapshots.steps.iter().try_for_each(one)?)
}

/// Weights with the fixed tables.
fn save(model: &SiT, mut tensors: Tensors, path: &Path) -> candle_core::Result<()> {
    tensors.extend(model.buffers());
    weights::save(&tensors, path)
}

/// Writes the artifact of a trained SiT: all sets of weights with the fixed tables, the configuration, the curve.
pub fn write_artifact(dir: &Path, model: &SiT, trained: &Trained, note: &TrainingNote) -> Result<()> {
    create_dir(dir)?;
    let save = |file: &str, tensors: &Tensors| save(model, tensors.clone(), &dir.join(file));
    save("model.safetensors", &trained.model)?;
    save("ema.safetensors", &trained.ema)?;
    for (decay, tensors) in &trained.further {
        save(&file_of_decay(*decay), tensors)?;
    }
    write_json(&dir.join("config.json"), model.config())?;
    write_json(&dir.join("training.json"), note)?;
    write_lines(&dir.join("curve.jsonl"), &trained.curve)
}

/// Micro-batches of a step must be equal for their mean to be that of the batch.
pub fn check_batch(batch: usize, accumulate: usize) -> Result<()> {
    if accumulate == 0 || batch == 0 || !batch.is_multiple_of(accumulate) {
        return Err(Error::usage(format!("`batch` {batch} does not divide into `accumulate` {accumulate} parts")));
    }
    Ok(())
}
