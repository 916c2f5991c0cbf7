//! Selects the stages that a target needs. Does not know what is cached.

use super::graph::{Pipeline, StageId};
use crate::text::suggest;
use erw_base::error::{Error, Result};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, Reversed};

impl Pipeline {
    /// The stages as a graph, edges from producer to consumer; node weights and node indices are
    /// the [`StageId`]s.
    pub fn graph(&self) -> DiGraph<StageId, ()> {
        let mut graph = DiGraph::with_capacity(self.stages.len(), self.stages.len());
        for id in 0..self.stages.len() {
            graph.add_node(StageId(id));
        }
        for (to, stage) in self.stages.iter().enumerate() {
            for edge in stage.inputs.values() {
                graph.update_edge(NodeIndex::new(edge.from.0), NodeIndex::new(to), ());
            }
        }
        graph
    }
}

/// The targets and everything they need, in topological order; all stages if there are no targets.
/// A target is a stage, or in a sweep a base name that means the stage in every trial.
pub fn select(pipeline: &Pipeline, targets: &[String]) -> Result<Vec<StageId>> {
    if targets.is_empty() {
        return Ok((0..pipeline.stages.len()).map(StageId).collect());
    }
    let graph = pipeline.graph();
    let mut wanted = vec![false; pipeline.stages.len()];
    for target in targets {
        let found = named(pipeline, target);
        if found.is_empty() {
            let names = pipeline.stages.iter().map(|s| s.name.as_str());
            let error = Error::usage(format!("no stage `{target}` in `{}`", pipeline.file.display()));
            return Err(error.maybe_hint(suggest::hint(target, names, "the stages are")));
        }
        for id in found {
            let upstream = Reversed(&graph);
            let mut walk = Dfs::new(upstream, NodeIndex::new(id.0));
            while let Some(node) = walk.next(upstream) {
                wanted[node.index()] = true;
            }
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
