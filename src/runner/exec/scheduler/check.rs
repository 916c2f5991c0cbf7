//! Checks whether a stage is cached. Runs on threads of its own, since a check may have to read
//! sources. Knows one stage at a time.
//!
//! The lock of a stale stage is taken when it starts (`start`), and not here: each is an open file, and
//! every program that is started gets a copy of the table of open files, to be closed one by one. With
//! the locks of 10,000 waiting stages that took longer than the programs.

use super::message::{CheckRequest, CheckResult, Message};
use crate::exec::executor::{Executor, ReadyAction};
use crate::plan::{self, Missing, Verdict};
use erw_base::error::{Error, Result};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};

/// The loop of a checking thread, until no more requests can come.
pub(super) fn check_all(executor: &Executor<'_>, asked: &Mutex<Receiver<Vec<CheckRequest>>>, tell: &Sender<Message>) {
    loop {
        let requests = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(requests) = requests else { return };
        let checked = requests.into_iter().map(|request| (request.id, checker(executor, request))).collect();
        let _ = tell.send(Message::Checked(checked));
    }
}

/// Checks a stage whose inputs are known.
fn checker(executor: &Executor<'_>, request: CheckRequest) -> Result<CheckResult> {
    let CheckRequest { id, inputs, keyed } = request;
    // A stage that waits for its lock takes it here, so that it is not started in vain; and one that a
    // remote may have, so that two runs do not fetch it.
    let is_locked_now = keyed.is_some() || executor.checker.remote.is_some();
    let checker = executor.checker;
    let stage = &checker.pipeline.stages[id.0];
    // A missing source is an error here too, but this one says how to get it.
    let missing = |e| plan::missing(stage).first().map_or(e, Missing::error);
    let keyed = match keyed {
        Some(keyed) => keyed,
        None => checker.key(stage, &inputs).map_err(missing)?,
    };
    let mut lock = None;
    if is_locked_now {
        if let Some(record) = checker.cached(id, &keyed)? {
            return Ok(CheckResult::Cached(keyed.action.key, record));
        }
        checker.store.writable()?;
        lock = checker.store.try_lock(&keyed.action.key)?;
        if lock.is_none() {
            return Ok(CheckResult::Locked(Box::new(CheckRequest { id, inputs, keyed: Some(keyed) })));
        }
    }
    // Another run may have finished it before the lock was taken.
    match checker.verdict(id, &keyed)? {
        Verdict::Cached(record) => Ok(CheckResult::Cached(keyed.action.key, record)),
        Verdict::Run(reasons) => {
            checker.store.writable()?;
            Ok(CheckResult::Stale(Box::new(ReadyAction { id, keyed, inputs, lock }), reasons))
        }
        Verdict::Waiting(_) | Verdict::Missing(_) => {
            Err(Error::internal("a stage was checked before its inputs were known"))
        }
    }
}
