//! The one test binary, with a room for each part of the program; a module per promise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod cli;
mod cluster;
mod docs;
mod gpu;
mod layers;
mod ml;
mod runner;
mod stages;
mod survive;
