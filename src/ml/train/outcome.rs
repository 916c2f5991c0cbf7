//! The outcome of a training.

use super::curve::CurvePoint;
use super::divergence::Divergence;
use super::hooks::ValidationPoint;
use crate::nn::params::Tensors;

/// How a training ended.
pub enum Fit {
    Done(Trained),
    /// The observer asked to stop. The state is in the checkpoint directory.
    Stopped,
    /// A value is no longer finite. Earlier checkpoints remain.
    Diverged(Divergence),
}

/// The results of a finished training.
pub struct Trained {
    /// Final values, sharing memory with the variables.
    pub model: Tensors,
    pub ema: Tensors,
    /// Averages with further decays, each with its decay.
    pub further: Vec<(f64, Tensors)>,
    /// About a thousand points at most, each the mean over the steps since the previous one.
    pub curve: Vec<CurvePoint>,
    /// In the order of steps; empty without validation.
    pub validation: Vec<ValidationPoint>,
}
