//! Writes preview samples during training: a sheet of images beside the logs, and its path in the
//! log. An error while drawing is only logged.

use crate::support::files::create_dir;
use crate::support::sit_artifact::TrainingNote;
use crate::support::trained_on::check_scale;
use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::models::sit::SiTConfig;
use erw_ml::models::vae::AutoencoderKl;
use erw_ml::nn::params::Tensors;
use erw_ml::train::sit::preview::Preview;
use erw_runner::kind::attempt::Attempt;
use std::path::PathBuf;

/// A preview of the network `config`, with the autoencoder of slot `decoder` if one is connected.
///
/// # Errors
/// If the latents of the autoencoder have another number of channels, or are normalised otherwise
/// than those of the training.
pub fn open<'a>(
    attempt: &Attempt,
    config: &'a SiTConfig,
    note: &TrainingNote,
    seed: u64,
    device: &'a Device,
) -> Result<Preview<'a>> {
    let decoder = attempt.optional_input("decoder").map(|dir| AutoencoderKl::load(dir, device)).transpose()?;
    if let Some(vae) = decoder.as_ref().filter(|vae| vae.config().latent_channels != config.in_channels) {
        let (a, b) = (vae.config().latent_channels, config.in_channels);
        return Err(Error::stage(format!("`decoder` takes latents of {a} channels, but the network has {b}")));
    }
    if let Some(vae) = &decoder {
        check_scale(note, &vae.config().scale()?, "`decoder`")?;
    }
    Ok(Preview { config, decoder, path: note.path, seed, device })
}

/// Draws a sheet and logs its path, or the error.
pub fn show(attempt: &Attempt, preview: &Preview, step: u64, weights: &Tensors) {
    attempt.log(&match draw(attempt, preview, step, weights) {
        Ok(path) => format!("samples after {step} steps: {}", path.display()),
        Err(e) => format!("no samples after {step} steps: {e}"),
    });
}

fn draw(attempt: &Attempt, preview: &Preview, step: u64, weights: &Tensors) -> Result<PathBuf> {
    let sheet = preview.sheet(weights)?;
    let dir = attempt.pictures_dir();
    create_dir(&dir)?;
    let path = dir.join(format!("step-{step:012}.png"));
    sheet.save(&path)?;
    Ok(path)
}
