//! Pipelines, keys, cache, scheduling. Knows nothing of machine learning.

pub mod attempt;
pub mod graph;
pub mod manifest;
