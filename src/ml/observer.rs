//! The observer of a long-running training or pass over images: it receives reports and may ask the
//! work to stop.

use std::time::Duration;

/// Receives the reports of a training loop or of a pass over images.
pub trait Observer {
    fn progress(&self, done: u64, total: u64);
    fn metric(&self, step: u64, name: &str, value: f64);
    /// Called before a checkpoint is written. Everything that must not be older than the checkpoint
    /// must be on disk when this returns.
    fn checkpointing(&self) {}
    fn checkpointed(&self, step: u64);
    fn resumed(&self, step: u64);
    /// Called with the time that the loop waited for a batch.
    fn waited(&self, _: Duration) {}
    fn log(&self, text: &str);
    /// Whether to write a checkpoint and return. Asked after every step.
    fn should_stop(&self) -> bool;
}

/// An observer that ignores all reports and never asks to stop.
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
