//! Snapshots: the averages after chosen steps, saved during training, so that one training shows
//! how quality develops over steps.
//!
//! They are part of the result, and stay beside the checkpoints until it is written. A snapshot is
//! written before the checkpoint of its step, so a resumed training finds all earlier ones; later
//! ones are written again with the same bytes. This file does not know how they are used.

use super::checkpoint::{self, Damage};
use crate::nn::params::Tensors;
use candle_core::{Result, bail};
use std::path::PathBuf;

/// Which averages to keep, and where.
#[derive(Debug, Clone)]
pub struct Snapshots {
    pub dir: PathBuf,
    /// Steps done, ascending, from 1.
    pub steps: Vec<u64>,
}

impl Snapshots {
    fn path(&self, step: u64) -> PathBuf {
        self.dir.join(format!("ema-{step:012}.safetensors"))
    }

    /// The averages after a step.
    ///
    /// # Errors
    /// They are missing or damaged.
    pub fn load(&self, step: u64) -> Result<Tensors> {
        let path = self.path(step);
        if !path.exists() {
            bail!("the averages of step {step} are missing in {}", self.dir.display());
        }
        Ok(checkpoint::read_sealed(&path)?)
    }

    /// Checks that a training resumed after `done` steps has all earlier snapshots. Without one it
    /// has to start from an earlier checkpoint.
    pub(super) fn check(&self, done: u64) -> std::result::Result<(), Damage> {
        for step in self.steps.iter().filter(|step| **step <= done) {
            let text = || format!("the training cannot resume from step {done} without the averages of step {step}");
            checkpoint::read_sealed(&self.path(*step)).map_err(|damage| match damage {
                Damage::Damaged(e) => Damage::Damaged(e.context(text())),
                Damage::Unreadable(e) => Damage::Unreadable(e.context(text())),
            })?;
        }
        Ok(())
    }

    /// Saves the averages if `steps` contains this step.
    pub(super) fn keep(&self, step: u64, average: impl FnOnce() -> Result<Tensors>) -> Result<()> {
        if !self.steps.contains(&step) {
            return Ok(());
        }
        std::fs::create_dir_all(&self.dir)?;
        checkpoint::write_sealed(average()?, &self.path(step))
            .map_err(|e| e.context(format!("the averages of step {step} cannot be saved")))
    }
}
