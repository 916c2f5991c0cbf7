//! Validation of the two phases: its parameters, its slot, and what it leaves in the artifact.
//!
//! It is part of the result, and its settings are parameters: a series that is compared between
//! trials must not vanish with a log, nor depend on how a training was watched.

use crate::support::files::write_lines;
use erw_base::error::{Error, Result};
use erw_ml::data::latents::Latents;
use erw_ml::train::sit::batch::Examples;
use erw_ml::train::sit::validation::Validation;
use erw_ml::train::trained::Trained;
use erw_runner::kind::attempt::Attempt;
use serde::Deserialize;
use std::path::Path;

/// The slot of held-out latents.
pub const SLOT: &str = "validation";

/// The parameters, as the manifests of both phases name them. Flattened into theirs.
#[derive(Debug, Deserialize)]
pub struct Settings {
    pub validate_every: u64,
    validation_samples: u64,
}

impl Settings {
    /// An input of no use would still be made first and stand in the key.
    pub fn check(&self, inputs: &[&str]) -> Result<()> {
        if self.validate_every == 0 && inputs.contains(&SLOT) {
            return Err(Error::usage(format!("input `{SLOT}` is connected, but `validate_every` is 0"))
                .hint("set `validate_every` to a number of steps, or leave the input open"));
        }
        Ok(())
    }
}

/// On latents of slot `validation`; on those that are trained on where none is connected. `None`
/// where there is no validation.
pub fn open(
    attempt: &Attempt,
    settings: &Settings,
    examples: &Examples,
    seed: u64,
    batch: usize,
) -> Result<Option<Validation>> {
    if settings.validate_every == 0 {
        return Ok(None);
    }
    let held_out = attempt.optional_input(SLOT).map(Latents::open).transpose()?;
    if let Some(what) = held_out.as_ref().and_then(|set| examples.latents.difference(set)) {
        let text = format!("input `{SLOT}` differs from `latents` in {what}");
        return Err(Error::stage(text).hint("make both with the same autoencoder, from images of the same classes"));
    }
    let set = held_out.as_ref().unwrap_or(&examples.latents);
    if set.is_empty() {
        return Err(Error::stage(format!("input `{SLOT}` is empty")));
    }
    Ok(Some(Validation::new(set, settings.validation_samples, seed, batch, &examples.device)?))
}

/// `validation.jsonl`, a line per validation, and the last one's first losses among the results.
pub fn write(attempt: &Attempt, dir: &Path, trained: &Trained, name: &str) -> Result<()> {
    let Some(last) = trained.validation.last() else { return Ok(()) };
    for (losses, set) in [(&last.model, ""), (&last.ema, "_ema")] {
        if let Some(value) = losses.get(name) {
            attempt.result(&format!("validation_{name}{set}"), *value);
        }
    }
    write_lines(&dir.join("validation.jsonl"), &trained.validation)
}
