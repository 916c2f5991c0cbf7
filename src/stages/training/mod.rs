//! Kinds that train: SiT in two phases ([`warmup`], [`train`](mod@train)), and the networks it
//! needs where none is published ([`train_vae`], [`train_encoder`], [`train_classifier`]).

pub mod architecture;
pub mod batch_pairs;
pub mod dataset;
pub mod feature_source;
pub mod gpu;
pub mod init;
pub mod preview_output;
pub mod ranks;
pub mod reporter;
pub mod settings;
pub mod sit;
pub mod size_defaults;
pub mod train;
pub mod train_classifier;
pub mod train_encoder;
pub mod train_vae;
pub mod trainer;
pub mod validation_params;
pub mod warmup;
pub mod watched;
