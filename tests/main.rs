//! The one test binary; a module per promise.

mod conv;
mod vae;
