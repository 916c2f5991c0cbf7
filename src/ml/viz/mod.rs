//! Pictures of results: contact sheets and heat maps.

pub mod heat_map;
pub mod picture;
