//! Data sets: packed arrays on disk, images in and out. Order, noise and augmentation are the trainer's.

pub mod images;
pub mod packed;
pub mod picture;
pub mod resize;
pub mod source;
