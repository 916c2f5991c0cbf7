//! What the kinds that measure images by a network's features share: images of any origin, one pass over them, the
//! statistics that they become, and what two sides can be compared by.

pub mod comparison;
pub mod compute;
pub mod extract;
pub mod image_source;
pub mod inception_score;
pub mod measured;
pub mod metric;
pub mod provenance;
pub mod row_file;
pub mod side;
pub mod warnings;
