//! What the kinds that measure images by a network's features share: images of any origin, one pass over them, the
//! statistics that they become, and what two sides can be compared by.

pub mod comparison;
pub mod extract;
pub mod given;
pub mod measured;
pub mod metric;
pub mod note;
pub mod pictures;
pub mod rows;
pub mod score;
pub mod values;
pub mod warnings;
