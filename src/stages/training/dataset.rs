//! Opens the training inputs of `warmup` and `train`, and derives the network configuration that
//! fits them.

use super::architecture::{Architecture, Depths};
use super::feature_source::{self, Mode};
use crate::support::sit_artifact::TrainingNote;
use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::data::latents::Latents;
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::models::sit::SiTConfig;
use erw_ml::train::sit::batch::Examples;
use erw_ml::train::sit::features::Features;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::element;
use std::collections::BTreeMap;

/// Opens input `latents` and the feature inputs of `mode`, which is `None` without alignment.
/// `flip` is the probability of mirroring an image.
///
/// # Errors
/// If there are no latents, if `flip` is used without latents of mirrored images, or if the
/// features do not match the latents.
pub fn open(attempt: &Attempt, mode: Option<Mode>, flip: f64, device: &Device) -> Result<Examples> {
    let latents = Latents::open(attempt.input("latents")?)?;
    if latents.is_empty() {
        return Err(Error::stage("there are no latents to train on"));
    }
    if flip > 0.0 && !latents.has_mirrored() {
        let text = format!("`flip` is {flip}, but input `latents` has no latents of mirrored images");
        return Err(Error::stage(text).hint("set `flip = true` on the stage that makes them"));
    }
    let features = match mode {
        Some(mode) => feature_source::open(attempt, mode, &latents)?,
        None => Features::none(),
    };
    Ok(Examples { latents, features, device: device.clone() })
}

/// The configuration of the network that fits these examples. `mode` determines the input that
/// errors about an encoder name.
///
/// # Errors
/// If the latents are not square, or features and network differ in tokens per image.
pub fn network(
    examples: &Examples,
    mode: Option<Mode>,
    architecture: &Architecture,
    depths: Depths,
) -> Result<SiTConfig> {
    let [channels, height, width] = examples.latents.shape()?;
    if height != width {
        return Err(Error::stage(format!("latents of {height}x{width} are not square")));
    }
    let input = |encoder| element(mode.map_or("features", Mode::slot), encoder);
    let grid = |encoder| {
        let grid = examples.features.grid(encoder);
        grid.map_err(|e| Error::from(e).context(format!("input `{}`", input(encoder))))
    };
    let grids = (0..examples.features.encoders()).map(grid).collect::<Result<Vec<_>>>()?;
    let z_dims = grids.iter().map(|g| g.dim).collect();
    let config = architecture.network(depths, channels, height, examples.latents.classes().len(), z_dims)?;
    if let Some((i, g)) = grids.iter().enumerate().find(|(_, g)| g.tokens != config.tokens()) {
        let (input, tokens) = (input(i), g.tokens);
        let text = format!("input `{input}` gives {tokens} tokens per image, but the network has {}", config.tokens());
        return Err(Error::stage(text).hint("choose patch sizes that cut images and latents into equal grids"));
    }
    Ok(config)
}

/// The training note of these examples, without resolved parameters.
pub fn note(examples: &Examples, path: NoisePath) -> TrainingNote {
    let (classes, scale) = (examples.latents.classes().to_vec(), examples.latents.scale());
    let (scaling_factor, shift_factor) = (Some(scale.factor), Some(scale.shift));
    let channels = scale.channels.clone();
    TrainingNote { format: 1, path, classes, resolved: BTreeMap::new(), scaling_factor, shift_factor, channels }
}

/// Checks that the micro-batches of a step have equal sizes, so that the mean over them is the mean
/// over the batch.
pub fn check_batch(batch: usize, accumulate: usize) -> Result<()> {
    if accumulate == 0 || batch == 0 || !batch.is_multiple_of(accumulate) {
        return Err(Error::usage(format!("`accumulate` {accumulate} does not divide `batch` {batch}")));
    }
    Ok(())
}
