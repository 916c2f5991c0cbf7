//! The one test binary; a module per promise.

mod conv;
mod data;
mod data_stages;
mod gradients;
mod metrics;
mod sampler;
mod sit;
mod support;
mod vae;
mod vit;
