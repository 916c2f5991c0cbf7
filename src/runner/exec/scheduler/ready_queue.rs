//! Stale stages that wait for a share of the machine, the most urgent first: the one that begins the longest chain of
//! work still to be done, by what its stages took in the past. Trials of a sweep come one after the other where not all
//! fit, so that the first result is there early, can condemn others, and is there if the sweep is cut off. Grants
//! shares; it does not know what the stages do.

use crate::exec::executor::ReadyAction;
use crate::exec::resources::{Allocation, ResourcePool};
use crate::pipeline::graph::{Pipeline, Resources, StageId};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// So often may less urgent stages slip past the most urgent one because it needs more than is free; then everything
/// waits for it.
const SLIPS: usize = 32;

/// The greater, the sooner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    /// Of the first trial that needs the stage.
    turn: Reverse<usize>,
    /// From its start to the end of all that needs it, if nothing has to wait.
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
    /// Learns how urgent each stage is. Until then all are alike.
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
    /// Dropping the orders releases their locks.
    pub fn clear(&mut self) {
        self.ready_actions.clear();
    }
    pub fn is_empty(&self) -> bool {
        self.ready_actions.is_empty()
    }

    /// The most urgent order that fits and is not less urgent than `at_least`, with its share.
    pub fn next<'r>(
        &mut self,
        pool: &mut ResourcePool,
        at_least: Option<Priority>,
        need: impl Fn(StageId) -> &'r Resources,
    ) -> Option<(Box<ReadyAction>, Allocation)> {
        if !pool.has_room() {
            return None;
        }
        let candidates = if self.bypasses < SLIPS { usize::MAX } else { 1 };
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

/// How urgent each stage is. `seconds` of a stage that is not to run are zero.
pub fn priority(pipeline: &Pipeline, seconds: impl Fn(StageId) -> f64) -> Vec<Priority> {
    let mut priority: Vec<Priority> =
        pipeline.stages.iter().map(|stage| Priority { turn: Reverse(stage.turn), millis: 0 }).collect();
    // Backwards: what needs a stage comes after it.
    for (i, stage) in pipeline.stages.iter().enumerate().rev() {
        // Nothing is free: of two equal chains the longer in stages comes first.
        priority[i].millis += (seconds(StageId(i)) * 1e3).clamp(1.0, 1e15) as u64;
        for edge in stage.inputs.values() {
            priority[edge.from.0].millis = priority[edge.from.0].millis.max(priority[i].millis);
        }
    }
    priority
}
