//! The one test binary; a module per promise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod adversity;
mod bad_input;
mod classifier;
mod compare;
mod conv;
mod data;
mod data_stages;
mod encoders;
mod engine;
mod experiment;
mod explain;
mod export;
mod fetch;
mod formats;
mod gc;
mod gradients;
mod history;
mod imports;
mod inception;
mod key;
mod layers;
mod lock;
mod manifests;
mod messages;
mod metrics;
mod online;
mod optim;
mod phases;
mod recipes;
mod remote;
mod resume;
mod revisions;
mod sampler;
mod schedule;
mod sit;
mod sources;
mod spec;
mod survive;
mod sweep;
mod training;
mod vae;
mod vit;
mod weights;
