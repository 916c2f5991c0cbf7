//! A small candle library for training and measuring diffusion transformers. Knows nothing of pipelines,
//! stages or caches.

pub mod align;
pub mod augment;
pub mod backprop;
pub mod copies;
pub mod data;
pub mod ema;
pub mod formats;
pub mod kernels;
pub mod loss;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod one_or_many;
pub mod optim;
pub mod path;
pub mod precision;
pub mod prefetch;
pub mod pretrain;
pub mod rng;
pub mod sample;
pub mod train;
pub mod weights;
