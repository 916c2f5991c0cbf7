//! Judging stages: is it cached, and if not, whose turn is it? Done by threads of their own, since a judge may have to
//! read sources. They know one stage at a time.

use super::message::{CheckRequest, CheckResult, Message};
use crate::exec::executor::{Executor, ReadyAction};
use crate::plan::{self, Verdict};
use erw_base::error::{Error, Result};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};

/// What a judging thread does until nobody can ask any more.
pub(super) fn check_all(executor: &Executor<'_>, asked: &Mutex<Receiver<CheckRequest>>, tell: &Sender<Message>) {
    loop {
        let question = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(question) = question else { return };
        let _ = tell.send(Message::Checked(question.id, checker(executor, question)));
    }
}

/// Judges a stage whose inputs are known.
fn checker(executor: &Executor<'_>, question: CheckRequest) -> Result<CheckResult> {
    let CheckRequest { id, inputs, keyed } = question;
    let checker = executor.checker;
    let stage = &checker.pipeline.stages[id.0];
    if let Some(missing) = plan::missing(stage).first() {
        return Err(missing.error());
    }
    let keyed = match keyed {
        Some(keyed) => keyed,
        None => checker.key(stage, &inputs)?,
    };
    if let Some(record) = checker.cached(id, &keyed)? {
        return Ok(CheckResult::Cached(keyed.action.key, record));
    }
    checker.store.writable()?;
    let Some(lock) = checker.store.try_lock(&keyed.action.key)? else {
        return Ok(CheckResult::Locked(Box::new(CheckRequest { id, inputs, keyed: Some(keyed) })));
    };
    // Between the look and the lock another run may have finished it.
    match checker.verdict(id, &keyed)? {
        Verdict::Cached(record) => Ok(CheckResult::Cached(keyed.action.key, record)),
        Verdict::Run(reasons) => Ok(CheckResult::Stale(Box::new(ReadyAction { id, keyed, inputs, lock }), reasons)),
        Verdict::Waiting(_) | Verdict::Missing(_) => Err(Error::internal("a stage was judged before its inputs")),
    }
}
