//! The joint: stage kinds, thin glue between the runner's attempts and `ml`. One file per kind.

pub mod accuracy;
pub mod agreement;
mod alignment;
mod averages;
mod block_features;
mod block_scores;
pub mod cknna;
mod evaluation;
mod examples;
mod facts;
mod feature_source;
pub mod features;
pub mod fid;
mod hand_over;
pub mod images;
pub mod import_features;
pub mod import_latents;
pub mod latents;
mod pack;
mod phase;
mod preview;
pub mod probe;
mod reporter;
pub mod sample;
mod size_defaults;
pub mod stats;
mod support;
pub mod train;
pub mod train_classifier;
pub mod train_encoder;
pub mod train_vae;
mod trainer;
mod validation;
pub mod warmup;
pub mod weights;

pub use evaluation::metric::Metric;
pub use evaluation::note::NOTE_FILE;
pub use evaluation::pictures::is_npz;
pub use evaluation::score::parts as inception_score_parts;
pub use trainer::CONFIG_FILE;

/// How many images lie at a path that an evaluation can read; of statistics that were made here, of how many features are kept.
pub fn count_images(path: &std::path::Path) -> crate::error::Result<u64> {
    match evaluation::given::Statistics::kept(path)? {
        Some(kept) => Ok(kept),
        None => Ok(evaluation::pictures::Pictures::of_path(path)?.len()),
    }
}

use crate::runner::manifest::Registry;

/// All of them.
pub const KINDS: Registry = &[
    accuracy::KIND,
    agreement::KIND,
    cknna::KIND,
    features::KIND,
    fid::KIND,
    images::KIND,
    import_features::KIND,
    import_latents::KIND,
    latents::KIND,
    probe::KIND,
    sample::KIND,
    stats::KIND,
    train::KIND,
    train_classifier::KIND,
    train_encoder::KIND,
    train_vae::KIND,
    warmup::KIND,
    weights::KIND,
];
