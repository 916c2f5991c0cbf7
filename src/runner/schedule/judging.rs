//! Judging stages: is it cached, and if not, whose turn is it? Done by threads of their own, since a judge may have to
//! read sources. They know one stage at a time.

use super::Message;
use crate::error::{Error, Result};
use crate::runner::actions::Record;
use crate::runner::digest::Digest;
use crate::runner::graph::StageId;
use crate::runner::key::Key;
use crate::runner::perform::{Order, Shop};
use crate::runner::plan::{self, Keyed, Verdict};
use crate::runner::reason::Reason;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};

/// A stage to be judged. `keyed`: from an earlier try.
pub(super) struct Question {
    pub id: StageId,
    pub inputs: BTreeMap<String, Digest>,
    pub keyed: Option<Keyed>,
}

pub(super) enum Judged {
    Cached(Key, Box<Record>),
    Stale(Box<Order>, Vec<Reason>),
    /// Another run is at it.
    Locked(Box<Question>),
}

/// What a judging thread does until nobody can ask any more.
pub(super) fn judge_all(shop: &Shop<'_>, asked: &Mutex<Receiver<Question>>, tell: &Sender<Message>) {
    loop {
        let question = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(question) = question else { return };
        let _ = tell.send(Message::Judged(question.id, judge(shop, question)));
    }
}

/// Judges a stage whose inputs are known.
fn judge(shop: &Shop<'_>, question: Question) -> Result<Judged> {
    let Question { id, inputs, keyed } = question;
    let judge = shop.judge;
    let stage = &judge.pipeline.stages[id.0];
    if let Some(missing) = plan::missing(stage).first() {
        return Err(missing.error());
    }
    let keyed = match keyed {
        Some(keyed) => keyed,
        None => judge.key(stage, &inputs)?,
    };
    if let Some(record) = judge.cached(id, &keyed)? {
        return Ok(Judged::Cached(keyed.action.key, record));
    }
    judge.store.writable()?;
    let Some(lock) = judge.store.try_lock(&keyed.action.key)? else {
        return Ok(Judged::Locked(Box::new(Question { id, inputs, keyed: Some(keyed) })));
    };
    // Between the look and the lock another run may have finished it.
    match judge.verdict(id, &keyed)? {
        Verdict::Cached(record) => Ok(Judged::Cached(keyed.action.key, record)),
        Verdict::Run(reasons) => Ok(Judged::Stale(Box::new(Order { id, keyed, inputs, lock }), reasons)),
        Verdict::Waiting(_) | Verdict::Missing(_) => Err(Error::internal("a stage was judged before its inputs")),
    }
}
