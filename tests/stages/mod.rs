//! The stage kinds, run as a worker runs them, and the shipped pipelines.

mod block_measures;
mod classifier;
mod data;
mod digits_experiment;
mod evaluation;
mod flip;
mod foreign_sets;
mod handover;
mod imported_latents;
mod manifests;
mod online_features;
mod planned_memory;
mod ranks;
mod refused_plans;
mod reproducible_training;
mod revisions;
mod shipped_pipelines;
mod small_recipes;
mod training_on_ranks;
mod training_options;
mod two_phase_training;
mod validation;
mod weight_averages;
