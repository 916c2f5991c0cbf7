//! What the scheduler and its helpers tell each other: stages to check, what came of them, attempts that start and end.

use crate::cache::action_cache::Record;
use crate::cache::key::Key;
use crate::event::WorkerEvent;
use crate::exec::executor::{End, Order, Start};
use crate::exec::resources::Grant;
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
    Pointless(String),
}

/// A stage to be judged. `keyed`: from an earlier try.
pub(crate) struct Question {
    pub id: StageId,
    pub inputs: BTreeMap<String, Digest>,
    pub keyed: Option<Keyed>,
}

pub(crate) enum Judged {
    Cached(Key, Box<Record>),
    Stale(Box<Order>, Vec<Reason>),
    /// Another run is at it.
    Locked(Box<Question>),
}

/// Waiting for something that no helper does: a lock of another run, or the time of the next attempt.
pub(crate) struct Later<T> {
    pub(crate) due: Instant,
    pub(crate) what: T,
}

/// What helpers report.
pub(crate) enum Message {
    Judged(StageId, Result<Judged>),
    Starting(StageId, Start, Grant),
    Worker(StageId, WorkerEvent),
    Ended(Box<Order>, Grant, End),
}
