//! Selects the stages that a target needs. Does not know what is cached.

use super::graph::{Pipeline, Stage, StageId};
use crate::kind::value::show;
use crate::text::suggest;
use erw_base::error::{Error, Result};
use std::collections::BTreeSet;

/// The layer of values that a trial sets, alone or before the name of the trial.
pub(crate) const OF_TRIAL: &str = "trial";

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

/// The stages called `target`, or else those with that base name. A stage of a trial is called
/// after the axes that change it; the name of the whole trial is understood too.
pub fn named(pipeline: &Pipeline, target: &str) -> Vec<StageId> {
    let all = || pipeline.stages.iter().enumerate();
    let exact: Vec<StageId> = all().filter(|(_, s)| s.name == target).map(|(i, _)| StageId(i)).collect();
    if !exact.is_empty() {
        return exact;
    }
    let is_meant = |stage: &Stage| match target.split_once('@') {
        None => stage.name.split_once('@').is_some_and(|(base, _)| base == target),
        Some((base, trial)) => is_in_trial(pipeline, stage, base, trial),
    };
    all().filter(|(_, stage)| is_meant(stage)).map(|(i, _)| StageId(i)).collect()
}

/// Whether this is the stage `base` in that trial: its name has some of the labels, and the others
/// are of axes that it does not depend on.
fn is_in_trial(pipeline: &Pipeline, stage: &Stage, base: &str, trial: &str) -> bool {
    let (name, own) = stage.name.split_once('@').unwrap_or((&stage.name, ""));
    if name != base {
        return false;
    }
    let (own, all) = (labels(own), labels(trial));
    let axes: BTreeSet<&str> = all.iter().map(|label| label.split_once('=').map_or(*label, |(axis, _)| axis)).collect();
    // No trial is at two points of an axis.
    !all.is_empty()
        && axes.len() == all.len()
        && own.iter().all(|label| all.contains(label))
        && all.iter().all(|label| own.contains(label) || is_point(pipeline, label))
}

/// The labels in the name of a trial: what is between its commas, except those of lists.
fn labels(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let is_end = |c: char| {
        depth += i32::from(c == '[') - i32::from(c == ']');
        c == ',' && depth <= 0
    };
    if text.is_empty() { vec![] } else { text.split(is_end).map(str::trim).collect() }
}

/// Whether the sweep has a point with this label: stages are named after it, or, where an axis has
/// one point only, it set a value that stages have.
fn is_point(pipeline: &Pipeline, label: &str) -> bool {
    let names = |stage: &Stage| stage.name.split_once('@').is_some_and(|(_, own)| labels(own).contains(&label));
    let sets = |stage: &Stage| match label.split_once('=') {
        Some((axis, text)) => has_from_sweep(stage, axis, text),
        None => {
            let is_its = |layer: &str| layer.split_once(' ') == Some((OF_TRIAL, label));
            stage.origins.values().any(|origin| is_its(&origin.layer))
        }
    };
    pipeline.stages.iter().any(|stage| names(stage) || sets(stage))
}

/// Whether a sweep gave the stage this value, which is written as in a label. An axis is called
/// `NAME`, or `STAGE.NAME` where that would be ambiguous.
fn has_from_sweep(stage: &Stage, axis: &str, text: &str) -> bool {
    let base = stage.name.split('@').next().unwrap_or_default();
    let name = match axis.rsplit_once('.') {
        Some((of, _)) if of != base => return false,
        Some((_, name)) => name,
        None => axis,
    };
    let layers = [OF_TRIAL, "--axis", "--search"];
    let is_equal = |value: &serde_json::Value| match (value.as_f64(), text.parse::<f64>()) {
        (Some(x), Ok(y)) => x == y,
        _ => show(value) == text,
    };
    [("params", &stage.params), ("operation", &stage.operation)].into_iter().any(|(part, values)| {
        let origin = stage.origins.get(&format!("{part}.{name}"));
        let is_swept = origin.is_some_and(|o| o.layer.split(' ').next().is_some_and(|first| layers.contains(&first)));
        is_swept && values.get(name).is_some_and(is_equal)
    })
}
