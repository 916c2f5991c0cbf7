//! The GPU memory that stages take in erw's own kernels, told by `erw plan` before anything runs. A
//! stage that does not fit is refused again when it opens the GPU, where other programs have taken
//! some of its memory, or a size is known only then.

pub mod foreseen;
mod networks;
mod sampling;
mod training;

use crate::support::frozen_networks;
use crate::{sampling as samplings, training as trainings};
use foreseen::Foreseen;

/// Bytes of GPU memory that each rank of a stage takes. `None` for kinds and settings that erw's own
/// kernels do not cover, and if a size is not known yet. Frozen networks of which that is so beside
/// others count as nothing.
pub fn planned_memory(stage: &Foreseen) -> Option<u64> {
    match stage.kind {
        kind if kind == samplings::sample::KIND.name => sampling::of_sample(stage),
        _ => training::of_training(stage),
    }
}

/// What makes a stage of this kind take less of a GPU's memory, as a hint.
pub fn less_memory(kind: &str) -> &'static str {
    match kind {
        kind if kind == trainings::train::KIND.name || kind == trainings::warmup::KIND.name => {
            trainings::gpu::LESS_MEMORY
        }
        _ => frozen_networks::LESS_MEMORY,
    }
}
