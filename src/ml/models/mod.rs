//! The networks. Models never see data sets or files of data.

pub mod classifier;
pub mod features;
pub mod vae;
