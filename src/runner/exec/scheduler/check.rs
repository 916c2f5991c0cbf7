//! Checks whether a stage is cached, and if not, takes its lock. Runs on threads of its own, since
//! a check may have to read sources. Knows one stage at a time.

use super::message::{CheckRequest, CheckResult, Message};
use crate::exec::executor::{Executor, ReadyAction};
use crate::exec::stop_request;
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
    let checker = executor.checker;
    let stage = &checker.pipeline.stages[id.0];
    // A missing source is an error here too, but this one says how to get it.
    let missing = |e| plan::missing(stage).first().map_or(e, Missing::error);
    let keyed = match keyed {
        Some(keyed) => keyed,
        None => checker.key(stage, &inputs).map_err(missing)?,
    };
    if let Some(record) = checker.cached(id, &keyed)? {
        return Ok(CheckResult::Cached(keyed.action.key, record));
    }
    checker.store.writable()?;
    let Some(lock) = checker.store.try_lock(&keyed.action.key)? else {
        return Ok(CheckResult::Locked(Box::new(CheckRequest { id, inputs, keyed: Some(keyed) })));
    };
    // Another run may have finished it before the lock was taken.
    match checker.verdict(id, &keyed)? {
        Verdict::Cached(record) => Ok(CheckResult::Cached(keyed.action.key, record)),
        Verdict::Run(reasons) => {
            // Whoever asked for a stop before meant an earlier run.
            stop_request::withdraw(&checker.store.work_dir(&keyed.action.key))?;
            Ok(CheckResult::Stale(Box::new(ReadyAction { id, keyed, inputs, lock }), reasons))
        }
        Verdict::Waiting(_) | Verdict::Missing(_) => {
            Err(Error::internal("a stage was checked before its inputs were known"))
        }
    }
}
