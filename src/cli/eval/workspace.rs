//! The workspace of an evaluation: the cache folder and the registry of stage kinds.

use erw_runner::kind::Registry;
use std::path::Path;

/// Where an evaluation runs its pipeline: the cache folder and the registry of stage kinds.
#[derive(Clone, Copy)]
pub(crate) struct Workspace<'a> {
    pub(crate) cache: &'a Path,
    pub(crate) registry: Registry,
}
