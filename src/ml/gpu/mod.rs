//! Networks as lists of commands for a GPU: a SiT's training step with its losses, gradients and
//! update; its velocity alone, for sampling; frozen vision transformers, autoencoders and Inception.
//!
//! ```text
//! layout          where each parameter lies in the flat buffers
//! arena           where activations lie; its size is the memory that is needed
//! layers          products with their gradients
//! block           a transformer block, forward
//! block_backward  its backward pass
//! class_token     the token beside the patches, and its velocity
//! forward         the network, forward
//! micro_batch     the network with its losses, and their gradients
//! projector       from tokens to features, with its gradients
//! sit             what is trained, and where everything lies
//! step            the programs of a training step
//! reduction       sums over ranks, from GPU to GPU
//! velocity        the network in a GPU's memory, for sampling, validation and previews
//! projections     the same of a warmup, for its validation
//! vit, encoder    a frozen vision transformer, and the encoder that it is part of
//! feature_maps    the layers of networks with convolutions, forward
//! map_memory      memory of their maps
//! frozen          such a network, before it is on a machine and there
//! vae, inception  such networks
//! host            tensors to a GPU's memory
//! ```
//!
//! There is no autograd: each backward pass is written out. The lists are made from shapes alone,
//! so the same step always runs the same kernels on the same addresses. Does not know batches,
//! schedules or files; [`crate::train`] does.

pub mod arena;
mod block;
mod block_backward;
mod class_token;
pub mod encoder;
pub mod feature_maps;
pub mod forward;
pub mod frozen;
pub mod host;
pub mod inception;
pub mod layers;
pub mod layout;
mod map_memory;
mod micro_batch;
pub mod projections;
mod projector;
pub mod reduction;
pub mod sit;
mod step;
pub mod vae;
pub mod velocity;
pub mod vit;

use crate::nn::precision::Precision;
use erw_gpu::program::Type;

/// The type of the products of a network with this precision.
pub fn product_type(precision: Precision) -> Type {
    match precision {
        Precision::F32 => Type::F32,
        Precision::Bf16 => Type::Bf16,
        Precision::F16 => Type::F16,
    }
}
