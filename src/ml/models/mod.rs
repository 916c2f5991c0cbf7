//! The networks, each named as in its paper, with the tensor names of its released weights.

pub mod encoder;
pub mod vit;
