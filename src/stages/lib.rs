//! The joint: stage kinds, thin glue between the runner's attempts and `ml`. One file per kind.

pub mod data;
pub mod evaluation;
pub mod sampling;
mod support;
pub mod training;

pub use evaluation::images::open_images::is_npz;
pub use evaluation::images::provenance::OTHER_NETWORKS;
pub use support::ema_files;
pub use support::files::NOTE_FILE;
pub use support::sit_artifact::{NOTE as TRAINING_NOTE_FILE, TrainingNote};
pub use training::trainer::CONFIG_FILE;

/// How many images lie at a path that an evaluation can read; of statistics that were made here, of
/// how many features are kept.
pub fn count_images(path: &std::path::Path) -> erw_base::error::Result<u64> {
    match evaluation::images::side::Statistics::kept(path)? {
        Some(kept) => Ok(kept),
        None => Ok(evaluation::images::open_images::of_path(path)?.len()),
    }
}

/// Bytes of GPU memory that each rank of a stage takes in erw's own kernels, before it runs: from its
/// parameters and what is known of its inputs. `None` for kinds and settings that those kernels do not cover,
/// and if a size is not known yet.
pub fn planned_memory(
    kind: &str,
    params: &Params,
    operation: &Params,
    inputs: &InputProperties,
    ranks: usize,
) -> Option<u64> {
    match kind {
        name if name == sampling::sample::KIND.name => sampling::planned_memory::of_sample(params, operation, inputs),
        _ => training::planned_memory::of_training(kind, params, operation, inputs, ranks),
    }
}

/// What makes a stage of this kind take less of a GPU's memory, as a hint.
pub fn less_memory(kind: &str) -> &'static str {
    match kind {
        name if name == training::train::KIND.name || name == training::warmup::KIND.name => training::gpu::LESS_MEMORY,
        _ => support::frozen_networks::LESS_MEMORY,
    }
}

use erw_runner::kind::Registry;
use erw_runner::kind::field::Params;
use erw_runner::kind::property::InputProperties;

/// All of them.
pub const KINDS: Registry = &[
    evaluation::accuracy::KIND,
    evaluation::agreement::KIND,
    evaluation::cknna::KIND,
    data::features::KIND,
    evaluation::fid::KIND,
    data::images::KIND,
    data::import_features::KIND,
    data::import_latents::KIND,
    data::latents::KIND,
    evaluation::probe::KIND,
    sampling::sample::KIND,
    evaluation::stats::KIND,
    training::train::KIND,
    training::train_classifier::KIND,
    training::train_encoder::KIND,
    training::train_vae::KIND,
    training::warmup::KIND,
    data::weights::KIND,
];
