//! The artifact of a trained SiT: files of weights, averages and snapshots, the configuration, the
//! loss curve, and a note about the training.

use super::ema_files::{file_of_decay, file_of_step};
use super::files::{create_dir, write_json, write_lines};
use erw_base::error::{Error, Result};
use erw_ml::data::latent_scale::Channels;
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::models::sit::SiT;
use erw_ml::models::vae::VaeConfig;
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
    /// How each channel of latents was normalised; absent where they were scaled by one factor.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
}

/// Checks that a decoder takes latents as the network of this note was trained on them.
///
/// # Errors
/// If only one of them normalises by channel, or by other statistics.
pub fn same_channels(trained: Option<&Channels>, decoder: &VaeConfig) -> Result<()> {
    let scale = decoder.scale()?;
    let differ = match (trained, &scale.channels) {
        (None, None) => return Ok(()),
        (Some(ours), Some(theirs)) if ours.agree(theirs) => return Ok(()),
        (Some(_), Some(_)) => "both normalise latents by channel, but by other statistics",
        (Some(_), None) => {
            "the network was trained on latents normalised by channel, the autoencoder states no statistics"
        }
        (None, Some(_)) => "the autoencoder normalises latents by channel, the network was trained without",
    };
    Err(Error::stage(format!("the decoder does not fit the network: {differ}"))
        .hint("import latents and autoencoder with the same `latents_stats.pt`"))
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
