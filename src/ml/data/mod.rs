//! Data sets: images and ready latents from where people have them, packed arrays on disk, images out. Order, noise and
//! augmentation are the trainer's.

pub mod decode;
pub mod heat_map;
pub mod images;
pub mod packed;
pub mod picture;
pub mod ready;
pub mod resize;
pub mod source;
pub mod transform;
