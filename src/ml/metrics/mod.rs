//! Measures of images and of representations, over tensors of features. Which network made the
//! features is the caller's business, and so is what the number may be called.

pub mod alignment;
pub mod bounds;
pub mod cka;
pub mod cknna;
pub mod cmmd;
pub mod confusion;
pub mod frechet;
pub mod gaussian;
mod half;
pub mod inception_score;
pub mod kid;
pub mod knn;
mod lbfgs;
pub mod linear_probe;
pub mod mutual_knn;
pub mod nearest;
mod pairs;
pub mod precision_recall;
pub mod random_state;
pub mod stats;
pub mod unit_rows;
