//! Merges the stages of all trials, equal ones into one, and names them. Does not know where trials
//! come from.

use super::axis::Axis;
use super::trial::Trial;
use crate::pipeline::graph::{Edge, Pipeline, Stage, StageId};
use std::collections::{BTreeMap, HashMap};

#[derive(Default)]
pub(super) struct Merge {
    stages: Vec<Stage>,
    /// Trials so far.
    trials: usize,
    known: HashMap<String, StageId>,
}

impl Merge {
    /// Adds the stages of one trial; returns the node of each.
    pub fn add(&mut self, trial: Pipeline) -> BTreeMap<String, StageId> {
        let mut ids: Vec<StageId> = vec![];
        let mut by_name = BTreeMap::new();
        for mut stage in trial.stages {
            for edge in stage.inputs.iter_mut().map(|(_, edge)| edge) {
                // Topological order: its inputs are nodes already.
                edge.from = ids[edge.from.0];
            }
            let id = *self.known.entry(description(&stage)).or_insert(StageId(self.stages.len()));
            by_name.insert(stage.name.clone(), id);
            ids.push(id);
            if id.0 == self.stages.len() {
                self.stages.push(Stage { turn: self.trials, ..stage });
            }
        }
        self.trials += 1;
        by_name
    }

    /// Names each node after the dimensions it depends on: those where a step to a neighbour on the
    /// grid changes the node. The grid is full, so the points on these dimensions determine the
    /// node, and names are unique.
    pub fn named(mut self, axes: &[Axis], grid: &[Vec<usize>], trials: &[Trial]) -> Vec<Stage> {
        // Distance of neighbours on each dimension in the list of trials.
        let stride = |dim: usize| axes[dim + 1..].iter().map(|a| a.points.len()).product::<usize>();
        let strides: Vec<usize> = (0..axes.len()).map(stride).collect();
        let bases: Vec<&String> = trials.first().map(|t| t.stages.keys().collect()).unwrap_or_default();
        let mut names: HashMap<StageId, String> = HashMap::new();
        for base in bases {
            // A stage from outside the pipeline may be in some trials only. It is the same in all
            // of them.
            let Some(nodes) = trials.iter().map(|t| t.stages.get(base).copied()).collect::<Option<Vec<StageId>>>()
            else {
                continue;
            };
            let reaches =
                |dim: &usize| grid.iter().enumerate().any(|(i, p)| nodes[i] != nodes[i - p[*dim] * strides[*dim]]);
            let dims: Vec<usize> = (0..axes.len()).filter(reaches).collect();
            for (node, trial) in nodes.iter().zip(trials) {
                names.entry(*node).or_insert_with(|| {
                    let labels: Vec<&str> = dims.iter().map(|d| trial.labels[*d].as_str()).collect();
                    if labels.is_empty() { base.clone() } else { format!("{base}@{}", labels.join(",")) }
                });
            }
        }
        for (id, name) in names {
            self.stages[id.0].name = name;
        }
        self.stages
    }
}

/// Everything that decides what a stage computes. Two base stages with equal descriptions stay two
/// nodes: users rely on their names, and the cache recognises that they are the same.
fn description(stage: &Stage) -> String {
    let edge = |e: &Edge| serde_json::json!([e.from.0, e.output]);
    let inputs: BTreeMap<&String, serde_json::Value> = stage.inputs.iter().map(|(k, e)| (k, edge(e))).collect();
    let sources: BTreeMap<&String, String> =
        stage.sources.iter().map(|(k, s)| (k, s.path.display().to_string())).collect();
    let outputs: BTreeMap<&String, &String> = stage.outputs.iter().collect();
    let parts = (&stage.name, stage.kind.name, &stage.params, inputs, sources, outputs);
    serde_json::to_string(&parts).expect("maps with string keys have a JSON text")
}
