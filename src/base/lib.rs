//! The base of every erw crate: errors with places and hints ([`error`]), text files as editors
//! write them ([`text`]), resource limits ([`limits`]) and process setup ([`process`]).

pub mod error;
pub mod limits;
pub mod process;
pub mod text;
