//! Kinds that make or import data: images, latents, features and weights.

pub mod features;
pub mod images;
pub mod import_features;
pub mod import_latents;
pub mod latents;
pub mod pack;
pub mod weights;
