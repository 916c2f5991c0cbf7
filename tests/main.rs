//! The one test binary; a module per promise.

mod classifier;
mod conv;
mod data;
mod gradients;
mod metrics;
mod optim;
mod sampler;
mod sit;
mod support;
mod training;
mod vae;
mod vit;
