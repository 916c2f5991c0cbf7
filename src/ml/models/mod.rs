//! Networks, one file or folder each, with the parameter names of their published checkpoints. Models never see data
//! sets.

pub mod classifier;
pub mod encoder;
pub mod features;
pub mod inception;
pub mod mode;
pub mod projector;
pub mod sit;
pub mod vae;
pub mod vit;
