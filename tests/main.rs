//! One test binary; a module per promise.

mod support;

mod gradients;
mod sampler;
mod sit;
