//! The one test binary; a module per promise.

mod support;

mod conv;
mod data;
mod gradients;
mod metrics;
mod optim;
mod phases;
mod sampler;
mod sit;
mod training;
mod vae;
mod vit;
