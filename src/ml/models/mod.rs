//! The networks. Models never see data sets or files of data.

pub mod vae;
