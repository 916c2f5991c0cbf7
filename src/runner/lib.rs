//! Pipelines, keys, cache, scheduling. Knows nothing of machine learning.
//!
//! The modules, from the bottom up; none imports one above it (`tests/layers.rs`):
//!
//! - [`text`] and [`files`]: TOML with places, digests, durable writes. [`host`] describes this
//!   machine,
//!   [`event`] has the events of a run.
//! - [`settings`]: how erw runs here; in no key.
//! - [`kind`]: stage kinds: manifests, parameters, the interface of a running stage.
//! - [`pipeline`]: from files to a graph in which every name, type, edge and value has been
//!   checked.
//! - [`sweep`]: one pipeline, many trials, one graph. `load` reads a file as either.
//! - [`cache`]: artifacts, the records of the actions that made them, and an optional remote.
//! - [`plan`]: the ingredients of a key, which stages are cached, and why the others are not.
//! - [`exec`]: runs stale stages.
//! - [`journal`]: the history of runs: writing, reading, explaining it.
//! - [`repro`]: compares results with earlier ones.
//!
//! `kind`, `pipeline` and `sweep` only read and check. `cache` to `exec` run things; `journal` and
//! `repro` look back, and nothing else needs them.

pub mod cache;
pub mod event;
pub mod exec;
pub mod files;
pub mod host;
pub mod journal;
pub mod kind;
mod load_pipeline;
pub mod outline;
pub mod pipeline;
pub mod plan;
pub mod repro;
pub mod settings;
pub mod small_map;
pub mod sweep;
pub mod text;
