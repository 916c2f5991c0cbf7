//! Sweeps: one pipeline, many trials, one graph.
//!
//! The axes of `[sweep]` span a grid; `[[sweep.trials]]` names points on one more, named, dimension. Each trial
//! is resolved like a pipeline of its own. Then stages whose whole description is equal (kind, parameters, sources
//! and, recursively, inputs) become one node, so that what two trials share is computed once even without a
//! cache. Knows nothing of running.

use super::graph::{Edge, Origin, Pipeline, Stage, StageId};
use super::layers::{Given, Overrides, Setting, target};
use super::located::{Entry, Node};
use super::manifest::Registry;
use super::spec::{Spec, flatten};
use super::{suggest, value};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// All trials of a sweep in one pipeline.
pub struct SweepPlan {
    pub trials: Vec<Trial>,
    pub pipeline: Pipeline,
}

/// One point of the grid.
pub struct Trial {
    /// `seed=1`, `sit`, `sit,seed=1`.
    pub name: String,
    /// What it sets, by `STAGE.NAME`, as shown to people.
    pub settings: Vec<(String, String)>,
    /// By base stage name.
    pub stages: BTreeMap<String, StageId>,
}

/// One dimension of the grid: an axis, or the list of named trials.
pub(super) struct Axis {
    points: Vec<Point>,
}

#[derive(Clone)]
struct Point {
    /// `seed=1` or the trial's name.
    label: String,
    settings: Vec<(String, String, Setting)>,
}

impl SweepPlan {
    /// Reads a pipeline and expands its `[sweep]`.
    pub fn load(path: &Path, registry: Registry, overrides: &Overrides) -> Result<Self> {
        expand(&Spec::read(path, registry)?, overrides)
    }
}

/// Expands the `[sweep]` of a pipeline that has one.
pub fn expand(spec: &Spec, overrides: &Overrides) -> Result<SweepPlan> {
    let axes = axes(spec)?;
    if axes.is_empty() {
        return Err(Error::usage(format!("`{}` has no [sweep]", spec.file.display()))
            .hint("a sweep is `[sweep]` with axes such as `\"train.seed\" = [0, 1, 2]`"));
    }
    let mut merge = Merge::default();
    let grid = grid(&axes);
    let mut trials = vec![];
    for point in &grid {
        let chosen: Vec<&Point> = axes.iter().zip(point).map(|(axis, i)| &axis.points[*i]).collect();
        let name = chosen.iter().map(|p| p.label.as_str()).collect::<Vec<_>>().join(",");
        let settings: Vec<Setting> = chosen.iter().flat_map(|p| p.settings.iter().map(|(_, _, s)| s.clone())).collect();
        let pipeline = spec.resolve(overrides, &settings).map_err(|e| e.within(&format!("trial `{name}`")))?;
        let settings = chosen.iter().flat_map(|p| p.settings.iter().map(|(k, v, _)| (k.clone(), v.clone()))).collect();
        trials.push(Trial { name, settings, stages: merge.add(pipeline) });
    }
    merge.name(&axes, &grid, &trials);
    let pipeline =
        Pipeline { name: spec.name.clone(), file: spec.file.clone(), files: spec.digests(), stages: merge.stages };
    Ok(SweepPlan { trials, pipeline })
}

/// The dimensions of the sweep, every name in them checked. Empty without a `[sweep]`.
pub(super) fn axes(spec: &Spec) -> Result<Vec<Axis>> {
    let mut axes = vec![];
    if let Some((base, trials)) = spec.files.iter().rev().find_map(|f| Some((f.dir(), f.trials.as_ref()?))) {
        axes.push(named_trials(spec, trials, &base)?);
    }
    let mut stated: Vec<(&Entry, PathBuf)> = vec![];
    for file in &spec.files {
        for entry in &file.axes {
            match stated.iter_mut().find(|(e, _)| e.key == entry.key) {
                Some(old) => *old = (entry, file.dir()),
                None => stated.push((entry, file.dir())),
            }
        }
    }
    for (entry, base) in &stated {
        let last = |key: &str| key.rsplit('.').next().map(str::to_string).unwrap_or_default();
        // `seed` alone, unless two axes are called so.
        let short = last(&entry.key);
        let twice = stated.iter().filter(|(e, _)| last(&e.key) == short).count() > 1;
        let shown = if twice { entry.key.clone() } else { short };
        let values = entry.node.list(&format!("axis `{}`", entry.key))?;
        if values.is_empty() {
            return Err(Error::usage(format!("axis `{}` has no values", entry.key)).at(entry.node.place.clone()));
        }
        let points = values.iter().map(|node| {
            let (text, setting) = setting(spec, entry, node, base, "axis")?;
            Ok(Point { label: format!("{shown}={text}"), settings: vec![(entry.key.clone(), text, setting)] })
        });
        let points: Vec<Point> = points.collect::<Result<_>>()?;
        distinct(&points, values, &format!("axis `{}`", entry.key))?;
        axes.push(Axis { points });
    }
    let trials = axes.iter().flat_map(|a| &a.points).filter(|p| !p.label.contains('='));
    for (key, _, setting) in trials.flat_map(|p| &p.settings) {
        if stated.iter().any(|(axis, _)| axis.key == *key) {
            let error =
                Error::usage(format!("a trial sets `{key}`, which is an axis")).maybe_at(setting.origin.place.clone());
            return Err(error.hint("give the axis's values to the trials, or leave it to the axis"));
        }
    }
    Ok(axes)
}

fn named_trials(spec: &Spec, trials: &[Node], base: &Path) -> Result<Axis> {
    let mut points = vec![];
    for trial in trials {
        let entries = trial.table("a trial")?;
        let Some(name) = trial.get("name") else {
            return Err(Error::usage("a trial needs a `name`").at(trial.place.clone()));
        };
        let label = name.string("the name of a trial")?.to_string();
        if label.is_empty() || !label.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(Error::usage(format!("`{label}` cannot name a trial"))
                .at(name.place.clone())
                .hint("names of trials are made of letters, digits, `-`, `_` and `.`"));
        }
        let settings: Vec<Entry> = entries.iter().filter(|e| e.key != "name").cloned().collect();
        let settings = flatten(&settings).into_iter().map(|e| {
            let (text, setting) = setting(spec, &e, &e.node, base, "trial")?;
            Ok((e.key.clone(), text, setting))
        });
        points.push(Point { label, settings: settings.collect::<Result<_>>()? });
    }
    if points.is_empty() {
        return Err(Error::usage("`sweep.trials` is empty"));
    }
    distinct(&points, trials, "`sweep.trials`")?;
    Ok(Axis { points })
}

fn distinct(points: &[Point], nodes: &[Node], what: &str) -> Result<()> {
    for (i, point) in points.iter().enumerate() {
        if points[..i].iter().any(|p| p.label == point.label) {
            let place = nodes[i].get("name").map_or(&nodes[i].place, |n| &n.place).clone();
            return Err(Error::usage(format!("{what} has `{}` twice", point.label)).at(place));
        }
    }
    Ok(())
}

/// The text shown and the setting of one value of an axis or a trial.
fn setting(spec: &Spec, entry: &Entry, node: &Node, base: &Path, what: &str) -> Result<(String, Setting)> {
    let target = target(spec, &entry.key)
        .map_err(|e| e.at(entry.key_place.clone()).within(&format!("{what} `{}`", entry.key)))?;
    let text = serde_json::to_value(value::from_node(node)).map(|v| value::show(&v)).unwrap_or_default();
    let origin = Origin { layer: "trial".into(), place: Some(node.place.clone()) };
    Ok((text, Setting { target, value: Given::Node(node.clone()), origin, base: base.to_path_buf() }))
}

/// Every combination of points, the last dimension fastest.
fn grid(axes: &[Axis]) -> Vec<Vec<usize>> {
    axes.iter().fold(vec![vec![]], |grid, axis| {
        let extend = |point: Vec<usize>| (0..axis.points.len()).map(move |i| [point.clone(), vec![i]].concat());
        grid.into_iter().flat_map(extend).collect()
    })
}

/// The stages of all trials, equal ones once.
#[derive(Default)]
struct Merge {
    stages: Vec<Stage>,
    known: HashMap<String, StageId>,
}

impl Merge {
    /// Takes the stages of one trial; says which node each became.
    fn add(&mut self, trial: Pipeline) -> BTreeMap<String, StageId> {
        let mut ids: Vec<StageId> = vec![];
        let mut by_name = BTreeMap::new();
        for mut stage in trial.stages {
            for edge in stage.inputs.values_mut() {
                // Topological order: what it takes is already a node.
                edge.from = ids[edge.from.0];
            }
            let id = *self.known.entry(description(&stage)).or_insert(StageId(self.stages.len()));
            by_name.insert(stage.name.clone(), id);
            ids.push(id);
            if id.0 == self.stages.len() {
                self.stages.push(stage);
            }
        }
        by_name
    }

    /// Names each node after the dimensions that reach it: those where one step to a neighbour on the grid changes the
    /// node. The grid is full, so the points on these dimensions determine the node, and names are unique.
    fn name(&mut self, axes: &[Axis], grid: &[Vec<usize>], trials: &[Trial]) {
        let bases: Vec<&String> = trials.first().map(|t| t.stages.keys().collect()).unwrap_or_default();
        let mut names: HashMap<StageId, String> = HashMap::new();
        for base in bases {
            let nodes: HashMap<&Vec<usize>, StageId> =
                grid.iter().zip(trials).map(|(p, t)| (p, t.stages[base])).collect();
            let reaches = |dim: usize| {
                grid.iter().any(|point| {
                    let mut origin = point.clone();
                    origin[dim] = 0;
                    nodes.get(&origin) != nodes.get(point)
                })
            };
            let dims: Vec<usize> = (0..axes.len()).filter(|d| reaches(*d)).collect();
            for (point, trial) in grid.iter().zip(trials) {
                let labels: Vec<&str> = dims.iter().map(|d| axes[*d].points[point[*d]].label.as_str()).collect();
                let name = if labels.is_empty() { base.clone() } else { format!("{base}@{}", labels.join(",")) };
                names.entry(trial.stages[base]).or_insert(name);
            }
        }
        for (id, name) in names {
            self.stages[id.0].name = name;
        }
    }
}

/// Everything that decides what a stage computes. Two base stages that are equal by description stay two nodes:
/// their names are promises to the user, and the cache will see that they are the same.
fn description(stage: &Stage) -> String {
    let edge = |e: &Edge| serde_json::json!([e.from.0, e.output]);
    let inputs: BTreeMap<&String, serde_json::Value> = stage.inputs.iter().map(|(k, e)| (k, edge(e))).collect();
    let sources: BTreeMap<&String, String> =
        stage.sources.iter().map(|(k, s)| (k, s.path.display().to_string())).collect();
    let parts = (&stage.name, stage.kind.name, &stage.params, inputs, sources, &stage.outputs);
    serde_json::to_string(&parts).expect("maps with string keys have a JSON text")
}

/// The nearest trial names, for `erw sweep --trial`.
pub fn trial_hint(plan: &SweepPlan, name: &str) -> Option<String> {
    suggest::hint(name, plan.trials.iter().map(|t| t.name.as_str()), "the trials are")
}
