//! Networks, one file each, with the parameter names of their published checkpoints. Models never see data sets.

pub mod encoder;
pub mod projector;
pub mod sit;
pub mod vit;
