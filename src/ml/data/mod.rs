//! Data sets: images and ready latents from where people have them, packed arrays on disk, images
//! out. Order, noise and augmentation are the trainer's.

pub mod augment;
pub mod batches;
pub mod decode;
pub mod images;
pub mod latents;
pub mod packed;
pub mod pairing;
pub mod prefetch;
pub mod released;
pub mod resize;
pub mod rgb;
pub mod source;
pub mod transform;
