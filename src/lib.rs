//! `erw`: the whole experiment of Embedded Representation Warmup as a cached, resumable pipeline.
pub mod cli;
pub mod error;
pub mod ml;
pub mod report;
pub mod runner;
pub mod stages;
