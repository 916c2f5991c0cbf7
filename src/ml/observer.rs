//! Receives the reports of long work, a training or a pass over images, and may stop it.

use std::time::Duration;

/// The reports of a training loop.
pub trait Observer {
    fn progress(&self, done: u64, total: u64);
    fn metric(&self, step: u64, name: &str, value: f64);
    /// Called before a checkpoint is written: everything that must not be behind it must be on
    /// disk.
    fn checkpointing(&self) {}
    fn checkpointed(&self, step: u64);
    fn resumed(&self, step: u64);
    /// The loop waited so long for a batch.
    fn waited(&self, _: Duration) {}
    fn log(&self, text: &str);
    /// Asked after every step: whether to write a checkpoint and return.
    fn should_stop(&self) -> bool;
}

/// An observer that ignores everything and never stops the training.
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _: u64, _: u64) {}
    fn metric(&self, _: u64, _: &str, _: f64) {}
    fn checkpointed(&self, _: u64) {}
    fn resumed(&self, _: u64) {}
    fn log(&self, _: &str) {}
    fn should_stop(&self) -> bool {
        false
    }
}
