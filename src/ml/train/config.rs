//! What a training is told: steps, batch, optimizer, averages, what to keep.

use super::adamw::{AdamWConfig, Decay};
use super::lr::LrSchedule;
use candle_core::Tensor;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct FitConfig {
    /// Optimiser updates in all, those before a resume included. 0 hands the initial values back.
    pub steps: u64,
    /// Its learning rate is the peak of the schedule.
    pub optimizer: AdamWConfig,
    pub lr: LrSchedule,
    /// Global norm to clip to; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// Decays of the averages to keep, at least one. The first is the result; the others are there to choose from.
    pub ema_decays: Vec<f64>,
    /// Micro-batches per step; their gradients are averaged.
    pub accumulate: usize,
    /// Steps between checkpoints; 0 for none but on a stop.
    pub checkpoint_every: u64,
    /// Steps between reports to the observer. Changes no result.
    pub log_every: u64,
    pub checkpoint_dir: PathBuf,
    pub keep: CheckpointRetention,
    /// Samples per step, for telling the rate; 0 where they are not counted.
    pub samples: usize,
    /// For losses computed in f16: scale them, and skip steps whose gradients overflow.
    pub loss_scaling: bool,
}

impl FitConfig {
    /// AdamW as SiT is trained with it, at a constant rate, its gradients clipped; one average; no checkpoint unless
    /// it is stopped.
    pub fn new(steps: u64, lr: f64, checkpoint_dir: &Path) -> Self {
        let decay = Decay::All;
        Self {
            steps,
            optimizer: AdamWConfig { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, decay },
            lr: LrSchedule::default(),
            max_grad_norm: 1.0,
            ema_decays: vec![0.9999],
            accumulate: 1,
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
    /// Named summands for the curve, the same names at every step.
    pub parts: Vec<(&'static str, f64)>,
}

/// Which checkpoints stay when a new one is written. Changes no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointRetention {
    /// So many of the newest, the new one among them, which always stays.
    pub last: u64,
    /// And those whose steps are a multiple of this; 0 for none.
    pub every: u64,
}

impl Default for CheckpointRetention {
    fn default() -> Self {
        Self { last: 1, every: 0 }
    }
}

impl CheckpointRetention {
    /// Of steps in ascending order, up to `newest`, those that go. What lies beyond it was passed over as damaged.
    pub(crate) fn gone(self, steps: &[u64], newest: u64) -> Vec<u64> {
        let recent = steps.iter().filter(|s| **s <= newest).rev().take(self.last.max(1) as usize).min().copied();
        let stays =
            |s: u64| s <= newest && (recent.is_some_and(|r| s >= r) || self.every > 0 && s.is_multiple_of(self.every));
        steps.iter().copied().filter(|s| !stays(*s)).collect()
    }
}
