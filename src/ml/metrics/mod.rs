//! Measures of images and of representations, over tensors of features. Which network made the features is the
//! caller's business, and so is what the number may be called.

pub mod cknna;
pub mod frechet;
pub mod gaussian;
pub mod knn;
pub mod stats;
