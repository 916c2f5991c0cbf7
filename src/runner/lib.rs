//! Pipelines, keys, cache, scheduling. Knows nothing of machine learning.
//!
//! The rooms, from the ground up; none imports one above it (`tests/layers.rs`):
//!
//! - [`text`] and [`files`]: TOML with places, digests, durable writes. [`host`] is this machine, [`event`] what a run
//!   tells.
//! - [`kind`]: what a stage kind is. Manifests, parameters, what a running kind sees.
//! - [`pipeline`]: from files to a graph in which every name, type, edge and value has been checked.
//! - [`sweep`]: one pipeline, many trials, one graph. `load` reads a file as either.
//! - [`cache`]: artifacts, the records of the actions that made them, and a remote behind both.
//! - [`plan`]: what a key is made of, which stages are cached, and why the others are not.
//! - [`exec`]: runs what is stale.
//! - [`journal`]: what runs did: written, read, explained.
//! - [`repro`]: whether results are still what they were.
//!
//! `kind`, `pipeline` and `sweep` read; nothing runs there. `cache` to `exec` do; `journal` and `repro` look back, and nothing
//! else needs them.

pub mod cache;
pub mod event;
pub mod exec;
pub mod files;
pub mod host;
pub mod journal;
pub mod kind;
mod load;
pub mod pipeline;
pub mod plan;
pub mod repro;
pub mod small_map;
pub mod sweep;
pub mod text;
