//! Starts stages that are ready: in the order of their priorities, as far as resources and locks
//! allow. Does not know why a stage is stale.

use super::message::{CheckRequest, Later};
use super::ready_queue::Priority;
use super::workers::{Allocated, execute_all};
use super::{LOCK_INTERVAL, Scheduler, TICK, need};
use crate::cache::action_cache::Record;
use crate::event::{EventKind, StageState};
use crate::exec::executor::{Executor, ReadyAction};
use crate::exec::stop_request;
use crate::pipeline::graph::StageId;
use erw_base::error::{Error, Result};
use erw_base::limits;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;
use std::thread::Scope;
use std::time::Instant;

/// What may keep a stale stage from starting.
enum Claim {
    /// Its lock is held.
    Held,
    /// Another run holds it, or another stage of this run with the same key.
    Locked,
    /// One of these finished it meanwhile.
    Cached(Box<Record>),
}

/// Takes the lock of a stage that is about to start.
fn claim(executor: &Executor<'_>, ready: &mut ReadyAction) -> Result<Claim> {
    let checker = executor.checker;
    let key = &ready.keyed.action.key;
    if ready.lock.is_none() {
        let Some(lock) = checker.store.try_lock(key)? else { return Ok(Claim::Locked) };
        ready.lock = Some(lock);
        if let Some(record) = checker.cached(ready.id, &ready.keyed)? {
            return Ok(Claim::Cached(record));
        }
    }
    // Whoever asked for a stop before meant an earlier run.
    stop_request::withdraw(&checker.store.work_dir(key))?;
    Ok(Claim::Held)
}

impl<'a> Scheduler<'a> {
    /// The highest priority among stages that are being checked right now: lower ones must not take
    /// their place. A check that takes long, because it reads sources, does not hold up others.
    fn next_priority(&self) -> Option<Priority> {
        let now = Instant::now();
        let fresh = self.checking.iter().filter(|(_, since)| now.duration_since(**since) < TICK);
        fresh.map(|(id, _)| self.queue.priority(*id)).max()
    }

    pub(super) fn start_ready<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        ready_actions: &'scope Mutex<Receiver<Allocated>>,
    ) where
        'a: 'scope,
    {
        while !self.queue.is_empty() {
            if !self.running.is_empty() && self.limits.is_overloaded() {
                return;
            }
            let (pipeline, at_least) = (self.pipeline, self.next_priority());
            let needs = &self.needs;
            let need = |id: StageId| need(needs, pipeline, id);
            let Some((mut ready, allocation)) = self.queue.next(&mut self.pool, at_least, need) else { return };
            let id = ready.id;
            match claim(self.executor, &mut ready) {
                Ok(Claim::Held) => {}
                refused => {
                    self.pool.give_back(allocation);
                    self.refused(*ready, refused);
                    continue;
                }
            }
            if self.hands <= self.running.len() {
                let (executor, tell) = (self.executor, self.tell.clone());
                match limits::spawn_scoped(scope, "attempt", move || execute_all(executor, ready_actions, &tell)) {
                    Ok(_) => self.hands += 1,
                    Err(e) if self.hands == 0 => {
                        self.pool.give_back(allocation);
                        self.fail(id, Error::stage("cannot start a thread").caused(e).into());
                        continue;
                    }
                    // A running thread will take it.
                    Err(_) => {}
                }
            }
            self.running.insert(id);
            let progress = &mut self.stages[id.0];
            (progress.ended_early, progress.deadline) = (None, None);
            self.set(id, StageState::Running);
            let _ = self.ready.send((ready, allocation));
        }
    }

    /// A stage that was about to start, and does not.
    fn refused(&mut self, ready: ReadyAction, claim: Result<Claim>) {
        let ReadyAction { id, keyed, inputs, .. } = ready;
        match claim {
            Err(e) => self.fail(id, e.into()),
            Ok(Claim::Cached(record)) => {
                self.stages[id.0].record = Some(*record);
                self.set(id, StageState::Cached);
            }
            Ok(Claim::Locked | Claim::Held) => {
                self.wait_for_lock(Box::new(CheckRequest { id, inputs, keyed: Some(keyed) }));
            }
        }
    }

    pub(super) fn wait_for_lock(&mut self, request: Box<CheckRequest>) {
        let id = request.id;
        self.stages[id.0].key = request.keyed.as_ref().map(|keyed| keyed.action.key);
        let is_new = !std::mem::replace(&mut self.stages[id.0].told_of_lock, true);
        if let Some(key) = self.stages[id.0].key.filter(|_| is_new) {
            let is_twin = |other: &&StageId| self.stages[other.0].key == Some(key);
            let twin = self.running.iter().find(is_twin).map(|twin| self.stage(*twin).name.clone());
            self.say(EventKind::Locked { stage: self.stage(id).name.clone(), key: key.to_string(), twin });
        }
        self.locked.insert(id, Later { due: Instant::now() + LOCK_INTERVAL, what: request });
    }
}
