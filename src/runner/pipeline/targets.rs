//! Selects the stages that a target needs. Does not know what is cached.

use super::graph::{Pipeline, StageId};
use crate::text::suggest;
use erw_base::error::{Error, Result};

/// The targets and everything they need, in topological order; all stages if there are no targets.
/// A target is a stage, or in a sweep a base name that means the stage in every trial.
pub fn select(pipeline: &Pipeline, targets: &[String]) -> Result<Vec<StageId>> {
    if targets.is_empty() {
        return Ok((0..pipeline.stages.len()).map(StageId).collect());
    }
    let mut wanted = vec![false; pipeline.stages.len()];
    for target in targets {
        let found = named(pipeline, target);
        if found.is_empty() {
            let names = pipeline.stages.iter().map(|s| s.name.as_str());
            let error = Error::usage(format!("no stage `{target}` in `{}`", pipeline.file.display()));
            return Err(error.maybe_hint(suggest::hint(target, names, "the stages are")));
        }
        found.iter().for_each(|id| wanted[id.0] = true);
    }
    // Whoever needs a stage comes after it, so one way back meets all that is needed.
    for (id, stage) in pipeline.stages.iter().enumerate().rev() {
        if wanted[id] {
            stage.inputs.values().for_each(|edge| wanted[edge.from.0] = true);
        }
    }
    Ok(wanted.iter().enumerate().filter(|(_, w)| **w).map(|(i, _)| StageId(i)).collect())
}

/// The stages called `target`, or else those with that base name.
pub fn named(pipeline: &Pipeline, target: &str) -> Vec<StageId> {
    let all = || pipeline.stages.iter().enumerate();
    let exact: Vec<StageId> = all().filter(|(_, s)| s.name == target).map(|(i, _)| StageId(i)).collect();
    if !exact.is_empty() {
        return exact;
    }
    all()
        .filter(|(_, s)| s.name.split_once('@').is_some_and(|(base, _)| base == target))
        .map(|(i, _)| StageId(i))
        .collect()
}
