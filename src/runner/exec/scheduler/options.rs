//! What a run is asked to do, and what it says at its end. Does not know how stages are run.

use crate::cache::action_cache::Record;
use crate::event::StageEnd;
use crate::exec::resources::Limits;
use crate::pipeline::graph::{RetryPolicy, StageId};
use erw_base::error::Error;
use std::collections::{BTreeMap, BTreeSet};

pub struct Options {
    /// In topological order, with everything they need that is not settled.
    pub selected: Vec<StageId>,
    pub settled: Settled,
    /// Run even if cached.
    pub forced: BTreeSet<StageId>,
    /// After a failure, continue with independent stages.
    pub keep_going: bool,
    /// Signals that end the run and leave alone what can go on without it.
    pub leave_on: Vec<i32>,
    pub limits: Limits,
    /// The largest numbers of ranks of stages that state none; else 1.
    pub most_ranks: BTreeMap<StageId, usize>,
    /// Of single stages, where the pipeline states none.
    pub stage_retry: BTreeMap<StageId, RetryPolicy>,
    /// For stages of which neither states one.
    pub retry: RetryPolicy,
}

/// Stages that are cached and not looked at.
#[derive(Default)]
pub struct Settled {
    /// The outputs of those that selected stages need.
    pub known: Vec<(StageId, Record)>,
    /// How many there are; not all need be in the pipeline.
    pub count: usize,
    /// All of them, if they are to be reported one by one.
    pub ends: Vec<StageEnd>,
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    pub ends: Vec<StageEnd>,
    /// Outputs of the stages that are cached or done.
    pub records: Vec<(StageId, Record)>,
    pub error: Option<Error>,
    /// An artifact of a known stage was damaged, so its stage must run too, which is not among the
    /// selected.
    pub lacks_stages: bool,
}

impl Outcome {
    /// Whether every selected stage is cached or done.
    pub fn is_whole(&self) -> bool {
        self.error.is_none() && self.records.len() == self.ends.len()
    }
}
