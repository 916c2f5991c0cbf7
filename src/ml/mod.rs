//! A small candle library for training and measuring diffusion transformers. Knows nothing of pipelines,
//! stages or caches.

pub mod data;
pub mod metrics;
pub mod rng;
pub mod weights;
