//! Sweeps: one pipeline, many trials, one graph.
//!
//! The axes of `[sweep]` span a grid ([`axes`]); `[[sweep.trials]]` and `[sweep.random]` (`random`)
//! name points on one more dimension each, and so does a search (`probes`). Each trial is resolved like a pipeline of its own.
//! Stages with equal descriptions then become one node (`merge`), so that stages shared by trials
//! run once even without a cache. [`pruner`] stops trials by their [`pruning_rule`]s while a sweep
//! runs. Does not know how stages run.

pub mod axes;
pub mod axis;
mod axis_argument;
mod merge;
pub mod probes;
pub mod pruner;
pub mod pruning_rule;
mod random;
pub mod trial;

use crate::kind::Registry;
use crate::pipeline::file::Spec;
use crate::pipeline::graph::Pipeline;
use crate::pipeline::layers::{Overrides, Setting, target};
use crate::text::suggest;
use axes::axes;
use axis::{Axis, MOST_TRIALS, Point};
use erw_base::error::{Error, Result};
use merge::Merge;
use probes::Probe;
use pruning_rule::Rule;
use std::path::Path;
use trial::Trial;

/// All trials of a sweep in one pipeline.
pub struct SweepPlan {
    /// The dimensions of the grid, the slowest first.
    pub axes: Vec<Axis>,
    pub trials: Vec<Trial>,
    pub pipeline: Pipeline,
    /// The rules of `sweep.stop`.
    pub rules: Vec<Rule>,
}

impl SweepPlan {
    /// Reads a pipeline and expands its `[sweep]`.
    pub fn load(path: &Path, registry: Registry, overrides: &Overrides) -> Result<Self> {
        Self::load_with(path, registry, overrides, &[])
    }

    /// With axes from the command line in addition to those of the file.
    pub fn load_with(path: &Path, registry: Registry, overrides: &Overrides, given: &[String]) -> Result<Self> {
        Self::load_at(path, registry, overrides, given, &[])
    }

    /// With the points of a search in addition.
    pub fn load_at(
        path: &Path,
        registry: Registry,
        overrides: &Overrides,
        given: &[String],
        probes: &[Probe],
    ) -> Result<Self> {
        let spec = Spec::read(path, registry)?;
        let axes = axes(&spec, given, probes)?;
        expand(&spec, overrides, axes)
    }

    /// The trial with this name; its parts may be in any order, and those that are not needed to
    /// tell it from others may be left out.
    pub fn trial(&self, name: &str) -> Result<usize> {
        let parts = |name: &str| {
            let mut parts: Vec<String> = name.split(',').map(|part| part.trim().to_string()).collect();
            parts.sort();
            parts
        };
        let (exact, wanted) = (self.trials.iter().position(|t| t.name == name), parts(name));
        if let Some(found) = exact.or_else(|| self.trials.iter().position(|t| parts(&t.name) == wanted)) {
            return Ok(found);
        }
        let has_all = |trial: &Trial| {
            let all = parts(&trial.name);
            wanted.iter().all(|part| all.contains(part))
        };
        let fitting: Vec<usize> = (0..self.trials.len()).filter(|i| has_all(&self.trials[*i])).collect();
        let names = |which: &[usize]| which.iter().map(|i| self.trials[*i].name.as_str()).collect::<Vec<_>>();
        match fitting.as_slice() {
            [one] => Ok(*one),
            [] => {
                let names = self.trials.iter().map(|t| t.name.as_str());
                let hint = suggest::hint(name, names, "the trials are");
                Err(Error::usage(format!("no trial `{name}`")).maybe_hint(hint))
            }
            several => Err(Error::usage(format!("`{name}` is a part of {} trials", several.len()))
                .hint(format!("name one of {}", suggest::ticked(names(several))))),
        }
    }

    /// The names that stages have in every trial.
    pub fn base_names(&self) -> impl Iterator<Item = &str> {
        self.trials.iter().take(1).flat_map(|t| t.stages.keys().map(String::as_str))
    }
}

fn expand(spec: &Spec, overrides: &Overrides, axes: Vec<Axis>) -> Result<SweepPlan> {
    if axes.is_empty() {
        return Err(Error::usage(format!("`{}` has no [sweep]", spec.file.display()))
            .hint("a sweep is `[sweep]` with axes such as `\"train.seed\" = [0, 1, 2]`, or `--axis train.seed=0..3`"));
    }
    refuse_both(spec, overrides, &axes)?;
    let grid = grid(&axes)?;
    let mut merge = Merge::default();
    let mut trials = Vec::with_capacity(grid.len());
    let mut files = spec.digests();
    for place in &grid {
        let points: Vec<&Point> = points(&axes, place).collect();
        let labels: Vec<String> = points.iter().map(|p| p.label.clone()).collect();
        let name = labels.join(",");
        let stated = || points.iter().flat_map(|p| &p.settings);
        let settings: Vec<Setting> = stated().map(|(_, _, setting)| setting.clone()).collect();
        let pipeline = spec.resolve(overrides, &settings).map_err(|e| e.within(&format!("trial `{name}`")))?;
        files.extend(pipeline.files.iter().filter(|f| !files.contains(f)).cloned().collect::<Vec<_>>());
        let settings = stated().map(|(key, value, _)| (key.clone(), value.clone())).collect();
        trials.push(Trial { name, labels, settings, stages: merge.add(pipeline) });
    }
    let pipeline = Pipeline {
        name: spec.name.clone(),
        file: spec.file.clone(),
        files,
        stages: merge.named(&axes, &grid, &trials),
        warnings: spec.warnings.clone(),
    };
    Ok(SweepPlan { axes, trials, pipeline, rules: pruning_rule::stated(spec)? })
}

/// The names of the trials, in the order of the grid.
pub(crate) fn names(spec: &Spec, given: &[String]) -> Result<Vec<String>> {
    let axes = axes(spec, given, &[])?;
    if axes.is_empty() {
        return Ok(vec![]);
    }
    let name =
        |place: Vec<usize>| points(&axes, &place).map(|point| point.label.as_str()).collect::<Vec<_>>().join(",");
    Ok(grid(&axes)?.into_iter().map(name).collect())
}

/// The points of a trial, one per axis.
fn points<'a>(axes: &'a [Axis], place: &'a [usize]) -> impl Iterator<Item = &'a Point> {
    axes.iter().zip(place).map(|(axis, i)| &axis.points[*i])
}

/// Settings from outside take precedence over a trial: an axis of the same parameter would have one
/// value in all trials, under names that say otherwise.
fn refuse_both(spec: &Spec, overrides: &Overrides, axes: &[Axis]) -> Result<()> {
    let set = overrides.set.iter().filter_map(|text| text.split_once('='));
    let set = set.map(|(key, _)| (key.trim().to_string(), format!("--set {}", key.trim())));
    let env = overrides.env.iter().filter_map(|(name, _)| Some((name.strip_prefix("ERW_SET__")?, name)));
    let env = env.map(|(key, name)| (key.replace("__", "."), name.clone()));
    for (key, outside) in set.chain(env) {
        // Unknown names are reported when trials are resolved.
        let Ok(target) = target(spec, &key) else { continue };
        let points = axes.iter().flat_map(|axis| &axis.points);
        if points.flat_map(|point| &point.settings).any(|(_, _, setting)| setting.target == target) {
            return Err(Error::usage(format!("`{outside}` sets a parameter that the sweep varies"))
                .hint(format!("set it in only one of the two; pass `--axis {key}=VALUE` to replace an axis")));
        }
    }
    Ok(())
}

/// Checks the `[sweep]` of a pipeline as far as possible without expanding it.
pub(super) fn check(spec: &Spec) -> Result<()> {
    axes(spec, &[], &[])?;
    pruning_rule::stated(spec).map(drop)
}

/// Every combination of points, the last dimension fastest.
fn grid(axes: &[Axis]) -> Result<Vec<Vec<usize>>> {
    let count = axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.points.len()));
    if count.is_none_or(|n| n > MOST_TRIALS) {
        let sizes: Vec<String> = axes.iter().map(|a| a.points.len().to_string()).collect();
        let error = Error::usage(format!("the sweep has {} trials, more than {MOST_TRIALS}", sizes.join(" x ")));
        return Err(error.hint("use `[sweep.random]` to draw a few points instead of a full grid"));
    }
    Ok(axes.iter().fold(vec![vec![]], |grid, axis| {
        let extend = |point: Vec<usize>| (0..axis.points.len()).map(move |i| [point.clone(), vec![i]].concat());
        grid.into_iter().flat_map(extend).collect()
    }))
}
