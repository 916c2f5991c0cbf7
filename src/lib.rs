//! `erw`: the whole experiment of Embedded Representation Warmup as a cached, resumable pipeline.
//!
//! Two wings and a joint, a crate each: [`runner`] (pipelines, keys, cache, scheduling) knows nothing of machine
//! learning, [`ml`] (models, training, sampling, metrics) nothing of pipelines, and [`stages`] puts them together.
//! [`fetch`] brings published files here and knows neither. [`report`] and [`cli`] are the only code that prints.
//! ARCHITECTURE.md has the map.

pub mod cli;
pub mod report;

pub use erw_base::{error, limits, process, svg, text};
pub use {erw_fetch as fetch, erw_ml as ml, erw_runner as runner, erw_stages as stages};
