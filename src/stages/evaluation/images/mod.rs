//! What the kinds that measure images by a network's features share: images and statistics as they
//! are given, what two sides can be compared by, and what is noted beside the numbers, which
//! `ml::evaluation` computes.

pub mod comparison;
pub mod image_source;
pub mod measured;
pub mod metric_names;
pub mod provenance;
pub mod side;
pub mod warnings;
