//! The base of every erw crate: errors with places and hints ([`error`]), text files as editors
//! write them ([`text`]), resource limits ([`limits`]), process setup ([`process`]) and SVG
//! ([`svg`]). [`braces`] are those in names of files, [`umask`] the permissions of new ones.

pub mod braces;
pub mod error;
pub mod limits;
pub mod process;
pub mod program;
pub mod svg;
pub mod text;
pub mod umask;
