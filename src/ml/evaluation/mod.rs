//! Compares two sets of images by the features of a network: images of any origin
//! ([`image_source`]), one pass over them ([`extract`]), the resulting statistics of a side
//! ([`side_statistics`]), and the named values of a comparison ([`values`]). Knows nothing of its
//! callers and stores no artifacts.

pub mod extract;
pub mod image_source;
pub mod inception_score;
pub mod metric;
pub mod rows;
pub mod side_statistics;
pub mod values;
