//! What the scheduler and its helpers tell each other: stages to check, what came of them, attempts that start and end.

use crate::cache::action_cache::Record;
use crate::cache::key::Key;
use crate::event::WorkerEvent;
use crate::exec::executor::{ActionEnd, ActionStart, ReadyAction};
use crate::exec::resources::Allocation;
use crate::files::digest::Digest;
use crate::pipeline::graph::StageId;
use crate::plan::Keyed;
use crate::plan::reason::Reason;
use erw_base::error::Result;
use std::collections::BTreeMap;
use std::time::Instant;

/// Why an attempt was asked to stop before its end.
#[derive(Clone)]
pub(crate) enum Early {
    OutOfTime,
    Pruned(String),
}

/// A stage to be judged. `keyed`: from an earlier try.
pub(crate) struct CheckRequest {
    pub id: StageId,
    pub inputs: BTreeMap<String, Digest>,
    pub keyed: Option<Keyed>,
}

pub(crate) enum CheckResult {
    Cached(Key, Box<Record>),
    Stale(Box<ReadyAction>, Vec<Reason>),
    /// Another run is at it.
    Locked(Box<CheckRequest>),
}

/// Waiting for something that no helper does: a lock of another run, or the time of the next attempt.
pub(crate) struct Later<T> {
    pub(crate) due: Instant,
    pub(crate) what: T,
}

/// What helpers report.
pub(crate) enum Message {
    Checked(StageId, Result<CheckResult>),
    Starting(StageId, ActionStart, Allocation),
    Worker(StageId, WorkerEvent),
    Ended(Box<ReadyAction>, Allocation, ActionEnd),
}
