//! What a pipeline file names, without resolving it: stages, their parameters and inputs, trials.
//! For completion, which must be fast, and useful while a file is being written: values are not
//! checked.

use crate::kind::Registry;
use crate::kind::manifest::Manifest;
use crate::pipeline::file::{Spec, declares};
use crate::sweep;
use erw_base::error::Result;
use std::path::Path;

/// The names in a pipeline.
pub struct Outline {
    spec: Spec,
}

impl Outline {
    pub fn read(path: &Path, registry: Registry) -> Result<Self> {
        Spec::read(path, registry).map(|spec| Self { spec })
    }

    /// The stages with their manifests, in the order of the file.
    pub fn stages(&self) -> impl Iterator<Item = (&str, &Manifest)> {
        self.spec.stages.iter().map(|stage| (stage.name.as_str(), stage.manifest.as_ref()))
    }

    pub fn manifest(&self, stage: &str) -> Option<&Manifest> {
        self.stages().find(|(name, _)| *name == stage).map(|(_, manifest)| manifest)
    }

    /// The keys of `[params]` of all files, and a manifest that declares them.
    pub fn shared(&self) -> Vec<(&str, Option<&Manifest>)> {
        let mut keys: Vec<&str> = self.spec.files.iter().flat_map(|f| &f.params).map(|e| e.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        let declaring = |key: &str| self.stages().map(|(_, m)| m).find(|m| declares(m, key));
        keys.into_iter().map(|key| (key, declaring(key))).collect()
    }

    /// The names of the axes of its sweep, with those of `--axis`; none without a sweep.
    pub fn axes(&self, given: &[String]) -> Result<Vec<String>> {
        Ok(sweep::axes::axes(&self.spec, given, &[])?.into_iter().map(|axis| axis.name).collect())
    }

    /// The names of the trials, likewise.
    pub fn trials(&self, given: &[String]) -> Result<Vec<String>> {
        sweep::names(&self.spec, given)
    }
}
