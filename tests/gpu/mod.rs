//! CUDA kernels on the emulated card, against f64.

mod activation;
mod attention;
mod boundary;
mod column_sums;
mod embedding;
mod faults;
mod loss;
mod networks;
mod optimizer;
mod qk_norm_rope;
mod reduction;
mod sampling;
mod self_check;
mod support;
mod training;
mod vit;
