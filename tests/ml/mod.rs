//! Networks, training, metrics and files of others, against PyTorch and other tools.

mod cifar;
mod conv;
mod embeddings;
mod encoders;
mod feeding;
mod formats;
mod frechet_distance;
mod fused_block;
mod fused_kernels;
#[cfg(feature = "cuda")]
mod gpu;
mod half_precision;
mod image_archives;
mod image_metrics;
mod image_sets;
mod image_sources;
mod image_tables;
pub mod inception;
mod losses;
mod methods;
mod optimizer;
mod packed_data;
mod pieces;
mod ranks;
mod representation_metrics;
mod sampler;
pub mod sit;
mod training_loop;
mod training_safeguards;
mod vae;
mod vit;
