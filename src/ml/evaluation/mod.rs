//! Two sets of images compared by the features of a network: images of any origin
//! ([`image_source`]), one pass over them ([`extract`]), what is known of a side then
//! ([`measured`]), and the named values of a comparison ([`values`]). Knows nothing of who asks,
//! and keeps no artifacts.

pub mod extract;
pub mod image_source;
pub mod inception_score;
pub mod measured;
pub mod metric;
pub mod rows;
pub mod values;
