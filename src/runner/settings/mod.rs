//! Settings: how erw runs on this machine, for this user and in this project. None of them is in a
//! key; the values of stages belong to pipelines.
//!
//! From the weakest: built in, `/etc/erw.toml`, the user's `erw/config.toml`, the project's
//! `erw.toml`, `ERW_*` variables, flags. In a file, `[default]` holds always and `[NAME]` with
//! `--profile NAME`; what a profile says is stronger than any `[default]`.
//!
//! - [`keys`]: the table of all settings, which everything else reads.
//! - [`files`]: which files there are; [`mod@file`] reads one, checks all its profiles and keeps the
//!   place of every value.
//! - `variables`: the variables of the table.
//! - [`layers`]: the layers, merged by figment; where each value comes from.
//! - `values`: the struct of all values, which others see.
//! - [`trust`]: what a project may not say unasked.
//!
//! figment is used here and nowhere else; others see [`Settings`]. Does not know pipelines, the
//! scheduler or the cache; how settings are used is the command line's.

pub mod file;
pub mod files;
pub mod keys;
pub mod layers;
mod read;
pub mod trust;
mod values;
mod variables;

pub use layers::{Entry, Origin, Request, Resolved, load};
pub use values::{Colour, LauncherName, MpiStart, RemoteMode, Settings, StageSettings};
