//! The joint: stage kinds, thin glue between the runner's attempts and `ml`. One file per kind.

pub mod accuracy;
pub mod cknna;
mod examples;
mod feature_source;
pub mod features;
pub mod fid;
mod hand_over;
pub mod images;
pub mod import_features;
pub mod import_latents;
pub mod latents;
mod pack;
pub mod sample;
mod support;
pub mod train;
pub mod train_classifier;
pub mod train_encoder;
pub mod train_vae;
mod trainer;
pub mod warmup;
pub mod weights;

use crate::ml::train::Observer;
use crate::runner::attempt::Attempt;
use crate::runner::manifest::Registry;

/// All of them.
pub const KINDS: Registry = &[
    accuracy::KIND,
    cknna::KIND,
    features::KIND,
    fid::KIND,
    images::KIND,
    import_features::KIND,
    import_latents::KIND,
    latents::KIND,
    sample::KIND,
    train::KIND,
    train_classifier::KIND,
    train_encoder::KIND,
    train_vae::KIND,
    warmup::KIND,
    weights::KIND,
];

/// Passes on to an attempt what a training loop has to tell.
pub struct Reporter<'a>(pub &'a Attempt);

impl Observer for Reporter<'_> {
    fn progress(&self, done: u64, total: u64) {
        self.0.progress(done, total);
    }
    fn metric(&self, step: u64, name: &str, value: f64) {
        self.0.metric(step, name, value);
    }
    fn checkpointed(&self, step: u64) {
        self.0.checkpointed(step);
    }
    fn resumed(&self, step: u64) {
        self.0.resumed(step);
    }
    fn log(&self, text: &str) {
        self.0.log(text);
    }
    fn should_stop(&self) -> bool {
        self.0.should_stop()
    }
}
