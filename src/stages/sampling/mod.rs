//! Kinds that sample.

pub mod sample;
