//! One test binary; a module per promise.

mod support;

mod gradients;
mod optim;
mod sampler;
mod sit;
mod training;
