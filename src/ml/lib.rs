//! A small candle library for training and evaluating diffusion transformers. Knows nothing of
//! pipelines, stages or caches.

pub mod data;
pub mod diffusion;
pub mod evaluation;
pub mod formats;
pub mod gpu;
pub mod kernels;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod observer;
pub mod one_or_many;
pub mod pieces;
pub mod ranks;
pub mod rng;
pub mod train;
pub mod viz;
