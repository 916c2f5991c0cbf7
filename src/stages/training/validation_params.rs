//! Parameters, input slot and output files of validation during `warmup` and `train`.
//!
//! The losses are part of the result and the settings are parameters: a series that is compared
//! between trials must not be lost with a log, nor depend on how a training was watched.

use crate::support::files::write_lines;
use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::data::latents::Latents;
use erw_ml::train::outcome::Trained;
use erw_ml::train::sit::batch::Examples;
use erw_ml::train::sit::validation::Validation;
use erw_runner::kind::attempt::Attempt;
use serde::Deserialize;
use std::path::Path;

/// The input slot of held-out latents.
pub const SLOT: &str = "validation";

/// The parameters of validation, flattened into those of both phases.
#[derive(Debug, Deserialize)]
pub struct Settings {
    pub validate_every: u64,
    validation_samples: u64,
}

impl Settings {
    /// Refuses held-out latents without validation. An unused input would still be computed first,
    /// and its digest would enter the key.
    pub fn check(&self, inputs: &[&str]) -> Result<()> {
        if self.validate_every == 0 && inputs.contains(&SLOT) {
            return Err(Error::usage(format!("input `{SLOT}` is connected, but `validate_every` is 0"))
                .hint("set `validate_every` to a number of steps, or leave the input unconnected"));
        }
        Ok(())
    }

    /// Checks that a loss over pairs of images, named `what` in messages, has pairs.
    pub fn check_pairs(&self, what: &str) -> Result<()> {
        if self.validate_every == 0 || self.validation_samples >= 2 {
            return Ok(());
        }
        let text = format!("`{what}` compares images, but `validation_samples` is {}", self.validation_samples);
        Err(Error::usage(text).hint("set it to 2 or more"))
    }
}

/// What a training validates beside its settings.
pub struct Held<'a> {
    pub examples: &'a Examples,
    pub seed: u64,
    /// Latents at a time.
    pub batch: usize,
    /// Where the network takes them.
    pub device: &'a Device,
}

/// Validation on the latents of slot `validation`, or on the training latents if the slot is not
/// connected. `None` if `validate_every` is 0.
///
/// # Errors
/// If the held-out latents are empty, or differ from the training latents in shape, classes or
/// scale.
pub fn open(attempt: &Attempt, settings: &Settings, of: &Held) -> Result<Option<Validation>> {
    if settings.validate_every == 0 {
        return Ok(None);
    }
    let held_out = attempt.optional_input(SLOT).map(Latents::open).transpose()?;
    if let Some(what) = held_out.as_ref().and_then(|set| of.examples.latents.difference(set)) {
        let text = format!("input `{SLOT}` differs from `latents` in {what}");
        return Err(Error::stage(text).hint("make both with the same autoencoder, from images of the same classes"));
    }
    let set = held_out.as_ref().unwrap_or(&of.examples.latents);
    if set.is_empty() {
        return Err(Error::stage(format!("input `{SLOT}` is empty")));
    }
    Ok(Some(Validation::new(set, settings.validation_samples, of.seed, of.batch, of.device)?))
}

/// Writes `validation.jsonl`, one line per validation. Reports loss `name` of the last validation
/// as a result, for the model and the averaged weights.
pub fn write(attempt: &Attempt, dir: &Path, trained: &Trained, name: &str) -> Result<()> {
    let Some(last) = trained.validation.last() else { return Ok(()) };
    for (losses, set) in [(&last.model, ""), (&last.ema, "_ema")] {
        if let Some(value) = losses.get(name) {
            attempt.result(&format!("validation_{name}{set}"), *value);
        }
    }
    write_lines(&dir.join("validation.jsonl"), &trained.validation)
}
