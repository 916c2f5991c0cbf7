//! The one test binary; a module per promise.

mod data;
mod metrics;
mod vit;
