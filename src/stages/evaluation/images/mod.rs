//! Shared by the kinds that measure images by the features of a network: opening images and
//! statistics, checking that two sides support a metric, and the provenance and warnings that are
//! recorded beside the numbers. The numbers are computed in `ml::evaluation`.

pub mod comparison;
pub mod measure;
pub mod metric_names;
pub mod open_images;
pub mod provenance;
pub mod side;
pub mod warnings;
