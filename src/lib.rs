//! `erw`: the whole experiment of Embedded Representation Warmup as a cached, resumable pipeline.
pub mod error;
pub mod ml;
pub mod runner;
pub mod stages;
