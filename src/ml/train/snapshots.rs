//! The averages of a training after some of its steps, put aside while it goes on, so that a quality can be followed over
//! steps with one training instead of one a point.
//!
//! They are part of the result and lie beside the checkpoints until it is made. That of a step is written before the
//! checkpoint of that step, so whoever goes on from a checkpoint finds all before it; those after it are written again,
//! with the same bytes. Knows nothing of what becomes of them.

use super::checkpoint;
use crate::nn::params::Tensors;
use candle_core::{Result, bail};
use std::path::PathBuf;

/// Which averages are kept, and where.
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

    /// Averages after a step that has been done.
    ///
    /// # Errors
    /// They are not there, or are not what was written.
    pub fn load(&self, step: u64) -> Result<Tensors> {
        let path = self.path(step);
        if !path.exists() {
            bail!("the averages of step {step} are not in {}", self.dir.display());
        }
        checkpoint::read_sealed(&path)
    }

    /// A training that goes on after `done` steps must find those before: told now and not at its end.
    pub(super) fn check(&self, done: u64) -> Result<()> {
        for step in self.steps.iter().filter(|step| **step <= done) {
            self.load(*step).map_err(|e| {
                e.context(format!("the training cannot go on from step {done} without what it kept of step {step}"))
            })?;
        }
        Ok(())
    }

    /// Keeps the averages if those of this step are wanted.
    pub(super) fn keep(&self, step: u64, average: impl FnOnce() -> Result<Tensors>) -> Result<()> {
        if !self.steps.contains(&step) {
            return Ok(());
        }
        std::fs::create_dir_all(&self.dir)?;
        checkpoint::write_sealed(average()?, &self.path(step))
            .map_err(|e| e.context(format!("the averages of step {step} cannot be kept")))
    }
}
