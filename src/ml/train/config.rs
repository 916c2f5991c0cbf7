//! The settings of a training: steps, batch, optimizer, averages, checkpoints.

use super::adamw::{AdamWConfig, Decay};
use super::lr::LrSchedule;
use crate::ranks::Ranks;
use candle_core::{Result, Tensor};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Settings of the training loop.
#[derive(Debug, Clone)]
pub struct FitConfig {
    /// Total optimizer updates, including those before a resume. 0 returns the initial values.
    pub steps: u64,
    /// Its learning rate is the peak of the schedule.
    pub optimizer: AdamWConfig,
    pub lr: LrSchedule,
    /// Global norm to clip to; 0 disables clipping.
    pub max_grad_norm: f64,
    /// Decays of the averages, at least one. The first average is the result; the others are
    /// alternatives.
    pub ema_decays: Vec<f64>,
    /// Micro-batches per step; their gradients are averaged.
    pub accumulate: usize,
    /// Those that share the micro-batches. Does not affect results.
    pub ranks: Ranks,
    /// Steps between checkpoints; with 0 only a stop writes one.
    pub checkpoint_every: u64,
    /// Steps between reports to the observer. Does not affect results.
    pub log_every: u64,
    pub checkpoint_dir: PathBuf,
    pub keep: CheckpointRetention,
    /// Samples per step, for reporting the rate; 0 if they are not counted.
    pub samples: usize,
    /// For losses computed in f16: scale them, and skip steps with gradient overflow.
    pub loss_scaling: bool,
}

impl FitConfig {
    /// The micro-batches of this rank.
    ///
    /// # Errors
    /// When the ranks cannot share them.
    pub fn share(&self) -> Result<Range<usize>> {
        self.ranks.share(self.accumulate.max(1))
    }
}

impl FitConfig {
    /// AdamW as SiT is trained with it, at a constant rate, its gradients clipped; one average; no
    /// checkpoint unless it is stopped.
    pub fn new(steps: u64, lr: f64, checkpoint_dir: &Path) -> Self {
        let decay = Decay::All;
        Self {
            steps,
            optimizer: AdamWConfig { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, decay },
            lr: LrSchedule::default(),
            max_grad_norm: 1.0,
            ema_decays: vec![0.9999],
            accumulate: 1,
            ranks: Ranks::default(),
            checkpoint_every: 0,
            log_every: 100,
            checkpoint_dir: checkpoint_dir.into(),
            keep: CheckpointRetention::default(),
            samples: 0,
            loss_scaling: false,
        }
    }
}

/// The loss of one micro-batch.
pub struct StepLoss {
    /// Scalar, the mean over the micro-batch.
    pub loss: Tensor,
    /// Named terms of the loss for the curve, with the same names at every step.
    pub parts: Vec<(&'static str, f64)>,
}

/// Which checkpoints to keep when a new one is written. Does not affect results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointRetention {
    /// This many of the newest, including the new one, which is always kept.
    pub last: u64,
    /// Also those whose steps are a multiple of this; 0 for none.
    pub every: u64,
}

impl Default for CheckpointRetention {
    fn default() -> Self {
        Self { last: 1, every: 0 }
    }
}

impl CheckpointRetention {
    /// Which of the ascending `steps` up to `newest` to remove. Later ones were skipped as damaged,
    /// and are removed too.
    pub(crate) fn gone(self, steps: &[u64], newest: u64) -> Vec<u64> {
        let recent = steps.iter().filter(|s| **s <= newest).rev().take(self.last.max(1) as usize).min().copied();
        let stays =
            |s: u64| s <= newest && (recent.is_some_and(|r| s >= r) || self.every > 0 && s.is_multiple_of(self.every));
        steps.iter().copied().filter(|s| !stays(*s)).collect()
    }
}
