//! Loads a [`Pipeline`] from a file. The only module that knows both pipelines and sweeps.

use crate::kind::Registry;
use crate::pipeline::file::Spec;
use crate::pipeline::graph::Pipeline;
use crate::pipeline::layers::Overrides;
use crate::sweep;
use erw_base::error::Result;
use std::path::Path;

impl Pipeline {
    /// Reads, resolves and checks a pipeline file. A `[sweep]` is checked but not expanded.
    pub fn load(path: &Path, registry: Registry, overrides: &Overrides) -> Result<Self> {
        let spec = Spec::read(path, registry)?;
        sweep::check(&spec)?;
        Self::of(spec, overrides)
    }
}
