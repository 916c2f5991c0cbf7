//! Metrics of images and of representations, computed from tensors of features. They know neither
//! the network that made the features nor the name of the value; the caller decides both.

pub mod alignment;
pub mod bounds;
pub mod cka;
pub mod cknna;
pub mod cmmd;
pub mod confusion;
pub mod frechet;
pub mod gaussian;
mod half_distances;
pub mod inception_score;
pub mod kid;
pub mod knn;
mod lbfgs;
pub mod linear_probe;
pub mod mae_probe;
pub mod mutual_knn;
pub mod nearest;
mod pairs;
pub mod precision_recall;
pub mod random_state;
pub mod stats;
pub mod unit_rows;
