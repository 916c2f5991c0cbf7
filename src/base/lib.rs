//! What every crate of erw stands on: errors with their places and hints ([`error`]), texts as people's editors write them
//! ([`text`]), what the process may use ([`limits`]) and how it is set up ([`process`]), and pictures as text ([`svg`]).

pub mod error;
pub mod limits;
pub mod process;
pub mod svg;
pub mod text;
