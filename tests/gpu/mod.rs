//! CUDA kernels on the emulated card, against f64.

mod activation;
mod attention;
mod boundary;
mod class_token;
mod column_sums;
mod convolution;
mod embedding;
mod faults;
mod group_norm;
mod inception;
mod loss;
mod networks;
mod optimizer;
mod pairs;
mod planes;
mod pooling;
mod qk_norm_rope;
mod reduction;
mod sampling;
mod self_check;
mod softmax;
mod support;
mod training;
mod unfold;
mod vae;
mod vit;
