//! Kinds that generate images.

pub mod sample;
