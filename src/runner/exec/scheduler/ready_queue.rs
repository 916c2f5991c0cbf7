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
    orders: BTreeMap<(Reverse<Priority>, StageId), Box<ReadyAction>>,
    /// By stage.
    urgency: Vec<Priority>,
    slips: usize,
}

impl ReadyQueue {
    /// Learns how urgent each stage is. Until then all are alike.
    pub fn rank(&mut self, urgency: Vec<Priority>) {
        self.urgency = urgency;
        let orders = std::mem::take(&mut self.orders);
        orders.into_values().for_each(|order| self.insert(order));
    }
    pub fn is_ranked(&self) -> bool {
        !self.urgency.is_empty()
    }
    pub fn urgency(&self, id: StageId) -> Priority {
        self.urgency.get(id.0).copied().unwrap_or_default()
    }
    fn place(&self, id: StageId) -> (Reverse<Priority>, StageId) {
        (Reverse(self.urgency(id)), id)
    }
    pub fn insert(&mut self, order: Box<ReadyAction>) {
        self.orders.insert(self.place(order.id), order);
    }
    pub fn remove(&mut self, id: StageId) -> Option<Box<ReadyAction>> {
        self.orders.remove(&self.place(id))
    }
    /// Dropping the orders releases their locks.
    pub fn clear(&mut self) {
        self.orders.clear();
    }
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
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
        let candidates = if self.slips < SLIPS { usize::MAX } else { 1 };
        let mut urgent = self
            .orders
            .keys()
            .take(candidates)
            .take_while(|(Reverse(urgency), _)| at_least.is_none_or(|least| *urgency >= least))
            .enumerate();
        let (nth, place, grant) = urgent.find_map(|(n, at)| Some((n, *at, pool.take(need(at.1))?)))?;
        self.slips = if nth == 0 { 0 } else { self.slips + 1 };
        Some((self.orders.remove(&place)?, grant))
    }
}

/// How urgent each stage is. `seconds` of a stage that is not to run are zero.
pub fn urgency(pipeline: &Pipeline, seconds: impl Fn(StageId) -> f64) -> Vec<Priority> {
    let mut urgency: Vec<Priority> =
        pipeline.stages.iter().map(|stage| Priority { turn: Reverse(stage.turn), millis: 0 }).collect();
    // Backwards: what needs a stage comes after it.
    for (i, stage) in pipeline.stages.iter().enumerate().rev() {
        // Nothing is free: of two equal chains the longer in stages comes first.
        urgency[i].millis += (seconds(StageId(i)) * 1e3).clamp(1.0, 1e15) as u64;
        for edge in stage.inputs.values() {
            urgency[edge.from.0].millis = urgency[edge.from.0].millis.max(urgency[i].millis);
        }
    }
    urgency
}
