//! Networks, one file or folder each, with the parameter names of their published checkpoints. They
//! do not know data sets.

pub mod classifier;
pub mod encoder;
pub mod feature_network;
pub mod inception;
pub mod projector;
pub mod sit;
pub mod state_dict;
pub mod vae;
pub mod vit;
