//! The one test binary; a module per promise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod conv;
mod data;
mod data_stages;
mod experiment;
mod gradients;
mod layers;
mod messages;
mod metrics;
mod optim;
mod phases;
mod sampler;
mod sit;
mod spec;
mod training;
mod vae;
mod vit;
