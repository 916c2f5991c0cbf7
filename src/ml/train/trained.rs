//! What comes of a training: its end, the final weights and averages.

use super::curve::CurvePoint;
use super::divergence::Divergence;
use super::hooks::ValidationPoint;
use crate::nn::params::Tensors;

pub enum Fit {
    Done(Trained),
    /// The observer asked to stop; a checkpoint lies in the checkpoint directory.
    Stopped,
    /// Something is no finite number any more. Checkpoints from before stay.
    Diverged(Divergence),
}

pub struct Trained {
    /// Final values, sharing memory with the variables.
    pub model: Tensors,
    pub ema: Tensors,
    /// Averages with the other decays.
    pub further: Vec<(f64, Tensors)>,
    /// At most about a thousand points, each the mean over the steps since the one before.
    pub curve: Vec<CurvePoint>,
    /// In the order of steps; empty without validation.
    pub validation: Vec<ValidationPoint>,
}
