//! From a [`Spec`] to a [`Pipeline`]: checks every value against its manifest, then connects the
//! stages (`edges`). Runs nothing, and reads only pipeline files.

use super::command;
use super::draft::{Draft, KnownStage};
use super::edges::{arrange, connect, order};
use super::file::{AT_A_TIME, Spec, first_error};
use super::graph::{Origin, Pipeline, Stage, StageId};
use super::layers::{Layers, Overrides, Setting};
use super::stage::draft;
use super::{external, properties};
use crate::files::digest::Digest;
use crate::kind::Registry;
use erw_base::error::{Place, Result};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Pipeline {
    /// A pipeline without a file. Nothing is set from outside, relative paths start at the current
    /// folder, and `by` appears as the origin of its values.
    pub fn of_text(by: &'static str, text: String, registry: Registry) -> Result<Self> {
        let mut pipeline = Self::of(Spec::of_text(by, text, registry)?, &Overrides::default())?;
        // A line number is useless in a text that nobody can open.
        for origin in pipeline.stages.iter_mut().flat_map(|stage| stage.origins.iter_mut().map(|(_, o)| o)) {
            if origin.place.as_ref().is_some_and(|place| place.source.file == Path::new(by)) {
                *origin = Origin { layer: by.into(), place: None };
            }
        }
        Ok(pipeline)
    }

    pub(crate) fn of(mut spec: Spec, overrides: &Overrides) -> Result<Self> {
        let drafts = spec.drafts(overrides, &[])?;
        // Everything in the files has been resolved by now, and takes as much memory as the result.
        spec.forget_statements();
        spec.pipeline(drafts)
    }

    /// The stages of `spec` and those that feed them.
    pub(crate) fn of_part(mut spec: Spec, known: Vec<KnownStage>, overrides: &Overrides) -> Result<Self> {
        let (mut drafts, files) = spec.drafts(overrides, &[])?;
        spec.forget_statements();
        let (manifest, place) = (Arc::new(command::known()), Place::of_file(&spec.file));
        drafts.extend(known.into_iter().map(|stage| stage.draft(&manifest, &place)));
        spec.pipeline((drafts, files))
    }

    /// The stages by name.
    pub fn by_name(&self) -> HashMap<&str, StageId> {
        self.stages.iter().enumerate().map(|(i, stage)| (stage.name.as_str(), StageId(i))).collect()
    }

    pub fn stage(&self, id: StageId) -> &Stage {
        &self.stages[id.0]
    }
}

impl Spec {
    /// Resolves and checks values and edges. `trial` has the settings of one trial of a sweep.
    pub(crate) fn resolve(&self, overrides: &Overrides, trial: &[Setting]) -> Result<Pipeline> {
        self.pipeline(self.drafts(overrides, trial)?)
    }

    /// Every stage with its values, including those from outside the pipeline, and the pipeline
    /// files read for them.
    pub(crate) fn drafts(&self, overrides: &Overrides, trial: &[Setting]) -> Result<(Vec<Draft>, Files)> {
        self.with_external(self.own_drafts(overrides, trial)?)
    }

    /// The stages of the files with their values.
    pub(crate) fn own_drafts(&self, overrides: &Overrides, trial: &[Setting]) -> Result<Vec<Draft>> {
        let layers = Layers::new(self, overrides, trial)?;
        let stages = self.stages.par_iter().enumerate().with_min_len(AT_A_TIME);
        first_error(stages.map(|(index, spec)| draft(spec, layers.values(index)?)))
    }

    /// The pipeline of these stages.
    pub(crate) fn of_drafts(&self, drafts: Vec<Draft>) -> Result<Pipeline> {
        self.pipeline(self.with_external(drafts)?)
    }

    fn with_external(&self, mut drafts: Vec<Draft>) -> Result<(Vec<Draft>, Files)> {
        let mut files = self.digests();
        files.extend(external::fetch(self, &mut drafts)?);
        Ok((drafts, files))
    }

    fn pipeline(&self, (drafts, mut files): (Vec<Draft>, Files)) -> Result<Pipeline> {
        let edges = connect(&self.removed, &drafts)?;
        let order = order(&drafts, &edges)?;
        let places: Vec<Place> = order.iter().map(|from| drafts[*from].place.clone()).collect();
        let stages = arrange(drafts, edges, &order);
        for (stage, place) in stages.iter().zip(&places) {
            check_kind(place, stage)?;
        }
        properties::check(&stages)?;
        files.dedup();
        let warnings = self.warnings.clone();
        Ok(Pipeline { name: self.name.clone(), file: self.file.clone(), files, stages, warnings })
    }
}

/// Pipeline files with digests of what was read.
type Files = Vec<(PathBuf, Digest)>;

/// Runs the kind's own check. An error is placed at the parameter or input it names, or at the
/// stage.
fn check_kind(place: &Place, stage: &Stage) -> Result<()> {
    let inputs: Vec<&str> = stage.inputs.keys().map(String::as_str).collect();
    (stage.kind.check)(&stage.params, &stage.operation, &inputs).map_err(|e| {
        let named = e.message.split('`').skip(1).step_by(2);
        let parts = named.flat_map(|n| ["params", "operation", "inputs"].map(|part| format!("{part}.{n}")));
        let stated = parts.filter_map(|p| stage.origins.get(&p)).find_map(|o| o.place.clone());
        e.at(stated.unwrap_or_else(|| place.clone())).within(&format!("stage `{}`", stage.name))
    })
}
