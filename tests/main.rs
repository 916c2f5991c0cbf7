//! One test binary; a module per promise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod engine;
mod key;
mod resume;
mod space;
mod toys;
