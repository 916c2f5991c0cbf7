//! Pipelines, keys, cache, scheduling. Knows nothing of machine learning.

pub mod actions;
pub mod attempt;
pub mod digest;
pub mod event;
pub mod files;
pub mod gc;
pub mod graph;
pub mod key;
pub mod launch;
pub mod manifest;
pub mod perform;
pub mod plan;
pub mod pool;
pub mod program;
pub mod reason;
pub mod record;
pub mod schedule;
pub mod store;
pub mod worker;
