//! Measures of images and of representations, over tensors of features. Which network made the features is the
//! caller's business, and so is what the number may be called.

pub mod alignment;
pub mod cka;
pub mod cknna;
pub mod frechet;
pub mod gaussian;
pub mod knn;
mod lbfgs;
pub mod linear_probe;
pub mod mutual_knn;
pub mod nearest;
pub mod stats;
pub mod unit_rows;
