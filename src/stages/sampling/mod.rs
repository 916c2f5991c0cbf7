//! Kinds that generate images.

pub mod planned_memory;
pub mod sample;
mod velocity;
