//! Loads a [`Pipeline`] from a file. The only module that knows both pipelines and sweeps.

use crate::files::digest::Digest;
use crate::kind::Registry;
use crate::pipeline::draft::KnownStage;
use crate::pipeline::file::{Source, Spec};
use crate::pipeline::graph::Pipeline;
use crate::pipeline::layers::Overrides;
use crate::sweep;
use erw_base::error::Result;
use std::collections::BTreeSet;
use std::path::Path;

impl Pipeline {
    /// Reads, resolves and checks a pipeline file. A `[sweep]` is checked but not expanded.
    pub fn load(path: &Path, registry: Registry, overrides: &Overrides) -> Result<Self> {
        let source = Source::read(path, None)?;
        if let Some(pipeline) = Self::of_pieces(path, &source, registry, overrides) {
            return Ok(pipeline);
        }
        let spec = Spec::of_file(path, &source, registry)?;
        sweep::check(&spec)?;
        Self::of(spec, overrides)
    }

    /// A part of the pipeline in a file without parents: the stages that are left in `text`, and
    /// those that feed them, of which only name and outputs are `known`. `digest`: of the whole
    /// file; `others`: the kinds of what is left out.
    pub(crate) fn load_part(
        path: &Path,
        text: String,
        digest: Digest,
        known: Vec<KnownStage>,
        others: &BTreeSet<String>,
        registry: Registry,
        overrides: &Overrides,
    ) -> Result<Self> {
        let spec = Spec::of_part(path, text, digest, others, registry)?;
        sweep::check(&spec)?;
        Self::of_part(spec, known, overrides)
    }
}
