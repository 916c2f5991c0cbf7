//! The artifact of a trained SiT: files of weights, averages and snapshots, the configuration, the
//! loss curve, and a note about the training.

use super::ema_files::{file_of_decay, file_of_step};
use super::files::{create_dir, write_json, write_lines};
use erw_base::error::Result;
use erw_ml::data::latent_scale::{Channels, LatentScale};
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::models::sit::SiT;
use erw_ml::nn::params::{self, Tensors};
use erw_ml::train::Snapshots;
use erw_ml::train::outcome::Trained;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The value of `model` for a network whose sizes are given by parameters.
pub const CUSTOM: &str = "custom";

/// The file of a [`TrainingNote`].
pub const NOTE: &str = "training.json";

/// What a sampler needs to know about the training. Stored in [`NOTE`] beside the weights.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrainingNote {
    pub format: u32,
    pub path: NoisePath,
    /// Class names by label.
    pub classes: Vec<String>,
    /// Values of unset parameters, derived from the size of the network and the method.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resolved: BTreeMap<String, serde_json::Value>,
    /// How latents were normalised, by diffusers' names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift_factor: Option<f64>,
    /// How each channel of latents was normalised; absent where they were scaled by one factor.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
}

impl TrainingNote {
    /// How latents were normalised; `None` in what versions before wrote.
    pub fn scale(&self) -> Option<LatentScale> {
        let (factor, shift) = (self.scaling_factor?, self.shift_factor.unwrap_or(0.0));
        Some(LatentScale { factor, shift, channels: self.channels.clone() })
    }
}

/// Writes the snapshots of the averaged weights into the artifact in `dir`.
pub fn write_snapshots(dir: &Path, model: &SiT, snapshots: &Snapshots) -> Result<()> {
    let one = |step: &u64| save(model, snapshots.load(*step)?, &dir.join(file_of_step(*step)));
    Ok(snapshots.steps.iter().try_for_each(one)?)
}

/// Writes weights together with the fixed tables of the model.
pub(crate) fn save(model: &SiT, mut tensors: Tensors, path: &Path) -> candle_core::Result<()> {
    tensors.extend(model.buffers());
    params::save(&tensors, path)
}

/// Writes the artifact of a trained SiT, except snapshots: all sets of weights with the fixed
/// tables, the configuration, the training note and the loss curve.
pub fn write_artifact(dir: &Path, model: &SiT, trained: &Trained, note: &TrainingNote) -> Result<()> {
    create_dir(dir)?;
    let save = |file: &str, tensors: &Tensors| save(model, tensors.clone(), &dir.join(file));
    save("model.safetensors", &trained.model)?;
    save("ema.safetensors", &trained.ema)?;
    for (decay, tensors) in &trained.further {
        save(&file_of_decay(*decay), tensors)?;
    }
    write_json(&dir.join("config.json"), model.config())?;
    write_json(&dir.join(NOTE), note)?;
    write_lines(&dir.join("curve.jsonl"), &trained.curve)
}
