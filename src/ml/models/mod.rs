//! Networks, one file each, with the parameter names of their published checkpoints.

pub mod projector;
pub mod sit;
