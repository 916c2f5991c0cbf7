//! The surroundings of an evaluation: the cache folder and the stage kinds.

use erw_runner::kind::Registry;
use std::path::Path;

/// The cache folder and the stage kinds.
#[derive(Clone, Copy)]
pub(crate) struct Workspace<'a> {
    pub(crate) cache: &'a Path,
    pub(crate) registry: Registry,
}
