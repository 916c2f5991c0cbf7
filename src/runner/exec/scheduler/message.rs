//! Messages between the scheduler and its helper threads: stages to check, results of checks,
//! starts and ends of attempts.

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

/// Why an attempt was asked to stop early.
#[derive(Clone)]
pub(crate) enum Early {
    OutOfTime,
    Pruned(String),
}

/// A stage to check. `keyed`: its key from an earlier check.
pub(crate) struct CheckRequest {
    pub id: StageId,
    pub inputs: BTreeMap<String, Digest>,
    pub keyed: Option<Keyed>,
}

pub(crate) enum CheckResult {
    Cached(Key, Box<Record>),
    Stale(Box<ReadyAction>, Vec<Reason>),
    /// Another run holds its lock.
    Locked(Box<CheckRequest>),
}

/// Waits for the lock of another run, or for the time of the next attempt.
pub(crate) struct Later<T> {
    pub(crate) due: Instant,
    pub(crate) what: T,
}

/// A report of a helper thread.
pub(crate) enum Message {
    Checked(Vec<(StageId, Result<CheckResult>)>),
    Starting(StageId, ActionStart, Allocation),
    Worker(StageId, WorkerEvent),
    Ended(Box<ReadyAction>, Allocation, ActionEnd),
}
