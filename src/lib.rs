//! `erw`: the whole experiment of Embedded Representation Warmup as a cached, resumable pipeline.
//!
//! Two wings and a joint: [`runner`] (pipelines, keys, cache, scheduling) knows nothing of machine learning, [`ml`] (models,
//! training, sampling, metrics) nothing of pipelines, and [`stages`] puts them together. [`fetch`] brings published files
//! here and knows neither. [`report`] and [`cli`] are the only code that prints. DESIGN.md has the reasons and the words: what is a stage, an action, an artifact.

pub mod cli;
pub mod error;
pub mod fetch;
pub mod limits;
pub mod mapped;
pub mod ml;
pub mod process;
pub mod report;
pub mod runner;
pub mod stages;
pub mod svg;
pub mod text;
