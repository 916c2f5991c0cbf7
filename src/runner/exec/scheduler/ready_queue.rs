//! Stale stages that wait for resources, by priority: first the stage that starts the longest
//! remaining chain of work, estimated from past durations. If the trials of a sweep do not all fit,
//! they run one after the other, so that the first result comes early, can prune others, and exists
//! if the sweep is interrupted. Hands out allocations; does not know what the stages do.

use crate::exec::executor::ReadyAction;
use crate::exec::resources::{Allocation, ResourcePool};
use crate::pipeline::graph::{Pipeline, Resources, StageId};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// How often lower-priority stages may bypass the first one because it needs more than is free;
/// after that, everything waits for it.
const MAX_BYPASSES: usize = 32;

/// Greater runs sooner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    /// Index of the first trial that needs the stage.
    turn: Reverse<usize>,
    /// Milliseconds from its start to the end of everything that depends on it, without waiting.
    millis: u64,
}

#[derive(Default)]
pub struct ReadyQueue {
    ready_actions: BTreeMap<(Reverse<Priority>, StageId), Box<ReadyAction>>,
    /// By stage.
    priority: Vec<Priority>,
    bypasses: usize,
}

impl ReadyQueue {
    /// Sets the priority of each stage. Before that, all are equal.
    pub fn rank(&mut self, priority: Vec<Priority>) {
        self.priority = priority;
        let ready_actions = std::mem::take(&mut self.ready_actions);
        ready_actions.into_values().for_each(|ready| self.insert(ready));
    }
    pub fn is_ranked(&self) -> bool {
        !self.priority.is_empty()
    }
    pub fn priority(&self, id: StageId) -> Priority {
        self.priority.get(id.0).copied().unwrap_or_default()
    }
    fn place(&self, id: StageId) -> (Reverse<Priority>, StageId) {
        (Reverse(self.priority(id)), id)
    }
    pub fn insert(&mut self, ready: Box<ReadyAction>) {
        self.ready_actions.insert(self.place(ready.id), ready);
    }
    pub fn remove(&mut self, id: StageId) -> Option<Box<ReadyAction>> {
        self.ready_actions.remove(&self.place(id))
    }
    /// Dropping the actions releases their locks.
    pub fn clear(&mut self) {
        self.ready_actions.clear();
    }
    pub fn is_empty(&self) -> bool {
        self.ready_actions.is_empty()
    }

    /// The first action that fits and has at least the priority `at_least`, with its allocation.
    pub fn next<'r>(
        &mut self,
        pool: &mut ResourcePool,
        at_least: Option<Priority>,
        need: impl Fn(StageId) -> &'r Resources,
    ) -> Option<(Box<ReadyAction>, Allocation)> {
        if !pool.has_room() {
            return None;
        }
        let candidates = if self.bypasses < MAX_BYPASSES { usize::MAX } else { 1 };
        let mut urgent = self
            .ready_actions
            .keys()
            .take(candidates)
            .take_while(|(Reverse(priority), _)| at_least.is_none_or(|least| *priority >= least))
            .enumerate();
        let (nth, place, allocation) = urgent.find_map(|(n, at)| Some((n, *at, pool.take(need(at.1))?)))?;
        self.bypasses = if nth == 0 { 0 } else { self.bypasses + 1 };
        Some((self.ready_actions.remove(&place)?, allocation))
    }
}

/// The priority of each stage. `seconds` is zero for stages that do not run.
pub fn priority(pipeline: &Pipeline, seconds: impl Fn(StageId) -> f64) -> Vec<Priority> {
    let mut priority: Vec<Priority> =
        pipeline.stages.iter().map(|stage| Priority { turn: Reverse(stage.turn), millis: 0 }).collect();
    // Backwards, because dependents come after a stage.
    for (i, stage) in pipeline.stages.iter().enumerate().rev() {
        // Every stage costs something: of two equally long chains, the one with more stages comes
        // first.
        priority[i].millis += (seconds(StageId(i)) * 1e3).clamp(1.0, 1e15) as u64;
        for edge in stage.inputs.values() {
            priority[edge.from.0].millis = priority[edge.from.0].millis.max(priority[i].millis);
        }
    }
    priority
}
