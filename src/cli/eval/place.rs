//! Where an evaluation stands: the cache folder and the kinds.

use erw_runner::kind::Registry;
use std::path::Path;

/// Where things are kept and what stages can be of.
#[derive(Clone, Copy)]
pub(crate) struct Workspace<'a> {
    pub(crate) cache: &'a Path,
    pub(crate) registry: Registry,
}
