//! The one test binary; a module per promise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod adversity;
mod classifier;
mod conv;
mod data;
mod data_stages;
mod engine;
mod experiment;
mod gradients;
mod key;
mod layers;
mod messages;
mod metrics;
mod optim;
mod phases;
mod resume;
mod sampler;
mod sit;
mod space;
mod spec;
mod toys;
mod training;
mod vae;
mod vit;
