//! Writes preview samples during training: a sheet of images beside the logs, and its path in the
//! log. An error while drawing is only logged.

use super::gpu::Training;
use super::watched::{self, Watched};
use crate::support::files::create_dir;
use crate::support::frozen_networks::not_covered;
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

const DECODER: &str = "decoder";

/// The autoencoder of slot `decoder`, if one is connected and previews are drawn: on the CPU, until it
/// is known where it runs ([`placed`]).
///
/// # Errors
/// If its latents have another number of channels, or are normalised otherwise than those of the
/// training.
pub fn decoder(
    attempt: &Attempt,
    samples_every: u64,
    config: &SiTConfig,
    note: &TrainingNote,
) -> Result<Option<AutoencoderKl>> {
    let dir = attempt.optional_input(DECODER).filter(|_| samples_every > 0);
    let decoder = dir.map(|dir| AutoencoderKl::load(dir, &Device::Cpu)).transpose()?;
    if let Some(vae) = decoder.as_ref().filter(|vae| vae.config().latent_channels != config.in_channels) {
        let (a, b) = (vae.config().latent_channels, config.in_channels);
        return Err(Error::stage(format!("`decoder` takes latents of {a} channels, but the network has {b}")));
    }
    if let Some(vae) = &decoder {
        check_scale(note, &vae.config().scale()?, "`decoder`")?;
    }
    Ok(decoder)
}

/// This decoder where it runs, and that place: on the GPU of the training if its kernels cover it, else
/// on `device`.
///
/// # Errors
/// One that cannot be read again.
pub fn placed(
    attempt: &Attempt,
    vae: AutoencoderKl,
    config: &SiTConfig,
    training: Option<&Training>,
    device: &Device,
) -> Result<(AutoencoderKl, Device)> {
    if device.is_cpu() {
        return Ok((vae, Device::Cpu));
    }
    if let Some(Training { opened, programs }) = training {
        let placed = {
            let plan = watched::decoder(&vae, config);
            plan.memory().map(|bytes| plan.at(opened.machine.clone(), programs.between(bytes)?))
        };
        match placed {
            Ok(placed) => return Ok((vae.decoded_by(placed?.elsewhere()), Device::Cpu)),
            Err(e) => attempt.log(&not_covered(&e, "the decoder of previews")),
        }
    }
    Ok((AutoencoderKl::load(attempt.input(DECODER)?, device)?, device.clone()))
}

/// Draws a sheet and logs its path, or the error.
pub fn show(attempt: &Attempt, preview: &Preview, watched: &Watched, step: u64, weights: &Tensors) {
    attempt.log(&match draw(attempt, preview, watched, step, weights) {
        Ok(path) => format!("samples after {step} steps: {}", path.display()),
        Err(e) => format!("no samples after {step} steps: {e}"),
    });
}

fn draw(attempt: &Attempt, preview: &Preview, watched: &Watched, step: u64, weights: &Tensors) -> Result<PathBuf> {
    let sheet = watched.velocity(weights, |velocity| preview.sheet(velocity))?;
    let dir = attempt.pictures_dir();
    create_dir(&dir)?;
    let path = dir.join(format!("step-{step:012}.png"));
    sheet.save(&path)?;
    Ok(path)
}
