//! Data sets: reading images and precomputed latents in common formats, packed arrays on disk, and
//! writing images. The trainer decides order, noise and augmentation.

pub mod augment;
pub mod batches;
pub mod decode;
pub mod images;
pub mod latent_scale;
pub mod latents;
pub mod packed;
pub mod pairing;
pub mod prefetch;
pub mod released;
pub mod resize;
pub mod rgb;
pub mod source;
pub mod transform;
