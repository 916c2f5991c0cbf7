//! What the rest of the program needs of a GPU: [`machine::Machine`] runs a
//! [`program::Program`], a list of kernel launches and matrix products on addresses of its memory.
//!
//! The kernels are CUDA C++ in `kernels/`. nvcc compiles them for a card; g++ compiles the same
//! files for the emulator (crate `erw-emulator`), which tests run on machines without a card. Does
//! not know networks.

#[cfg(feature = "cuda")]
pub mod card;
pub mod driver_error;
pub mod kernels;
pub mod machine;
pub mod program;
pub mod self_check;
