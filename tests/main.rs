//! The one test binary; a module per promise.

mod support;

mod conv;
mod data;
mod data_stages;
mod gradients;
mod layers;
mod metrics;
mod optim;
mod sampler;
mod sit;
mod training;
mod vae;
mod vit;
