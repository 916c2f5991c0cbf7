//! How a training ended, and the results of a finished one.

use super::callbacks::ValidationPoint;
use super::curve::CurvePoint;
use super::divergence::Divergence;
use crate::nn::params::Tensors;

/// How a training ended.
pub enum Outcome {
    Done(Trained),
    /// As [`Done`](Self::Done), on a rank that does not lead: the leading one has the results.
    Followed,
    /// The observer asked to stop. The state is saved in the checkpoint directory.
    Stopped,
    /// A value is no longer finite. Earlier checkpoints remain.
    Diverged(Divergence),
}

/// The results of a finished training.
pub struct Trained {
    /// Final values, sharing memory with the variables.
    pub model: Tensors,
    pub ema: Tensors,
    /// The averages with the other decays, each with its decay.
    pub further: Vec<(f64, Tensors)>,
    /// At most about a thousand points, each the mean over the steps since the previous one.
    pub curve: Vec<CurvePoint>,
    /// In the order of steps; empty without validation.
    pub validation: Vec<ValidationPoint>,
}
