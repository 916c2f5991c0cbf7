//! Kinds that generate images.

pub mod sample;
mod velocity;
