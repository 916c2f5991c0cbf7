//! The joint: stage kinds, thin glue between the runner's attempts and `ml`. One file per kind.

pub mod data;
pub mod evaluation;
pub mod planned_memory;
pub mod sampling;
mod support;
pub mod training;

use erw_base::error::Error;
use erw_ml::nn::precision::Precision;
use erw_runner::kind::Registry;
use erw_runner::kind::field::Params;
use support::frozen_networks;

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

/// The parameter by which a stage of this kind asks for what only a GPU computes, if one does, and what
/// is wrong with that on a CPU.
pub fn only_on_a_gpu(kind: &str, params: &Params) -> Option<(&'static str, Error)> {
    let name = frozen_networks::VAE_PRECISION;
    let takes_it = [sampling::sample::KIND.name, data::latents::KIND.name].contains(&kind);
    let asked: Precision = serde_json::from_value(params.get(name).filter(|_| takes_it)?.clone()).ok()?;
    (asked != Precision::F32).then(|| (name, frozen_networks::half_on_a_cpu()))
}

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
