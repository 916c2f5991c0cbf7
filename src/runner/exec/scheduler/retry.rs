//! How attempts end, including timeouts, and whether another attempt follows.

use super::Scheduler;
use super::message::{Early, Later};
use crate::event::{EventKind, Failure, StageState};
use crate::exec::executor::{ActionEnd, ReadyAction};
use crate::pipeline::graph::{RetryPolicy, StageId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time between the request to stop an attempt and its kill.
const GRACE: Duration = Duration::from_secs(10);
/// Default wait before a second attempt, and the longest wait that doubling leads to.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

impl Scheduler<'_> {
    /// Skips stages that a listener calls pointless, and stops those that run.
    pub(super) fn cancel_pruned(&mut self) {
        for (name, why) in self.listener.pointless() {
            let Some(&id) = self.by_name.get(name.as_str()) else { continue };
            if self.running.contains(&id) {
                self.executor.workers.stop_one(id.0);
                self.stages[id.0].ended_early = Some(Early::Pruned(why));
                self.stages[id.0].deadline = Some(Instant::now() + GRACE);
            } else if !self.state(id).is_settled() {
                self.queue.remove(id);
                self.locked.remove(&id);
                self.retries.remove(&id);
                self.skip(id, why);
            }
        }
    }

    /// The policy of a stage: its own, else what the run says of it, else that of the run.
    fn retry_policy(&self, id: StageId) -> RetryPolicy {
        let of_run = self.stage_retry.get(&id).copied().unwrap_or_default();
        self.stage(id).retry.or(of_run).or(self.retry)
    }

    /// Starts the clock of an attempt.
    pub(super) fn limit_time(&mut self, id: StageId) {
        let timeout = self.retry_policy(id).timeout;
        let progress = &mut self.stages[id.0];
        if progress.ended_early.is_none() {
            progress.deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        }
    }

    /// Stops attempts that exceed their timeout; kills those that do not stop. The clock stands
    /// still while the runner is paused.
    pub(super) fn handle_time_limits(&mut self) {
        let now = Instant::now();
        let Some(lost) = self.stop.time_lost() else { return };
        if !lost.is_zero() {
            self.stages.iter_mut().filter_map(|s| s.deadline.as_mut()).for_each(|deadline| *deadline += lost);
        }
        let late = |id: &StageId| self.stages[id.0].deadline.is_some_and(|deadline| deadline <= now);
        for id in self.running.iter().copied().filter(late).collect::<Vec<_>>() {
            let progress = &mut self.stages[id.0];
            progress.deadline = Some(now + GRACE);
            match &progress.ended_early {
                None => {
                    progress.ended_early = Some(Early::OutOfTime);
                    self.executor.workers.stop_one(id.0);
                }
                Some(_) => self.executor.workers.kill_one(id.0),
            }
        }
    }

    /// Retries locks, and starts further attempts.
    pub(super) fn requeue_due(&mut self) {
        let now = Instant::now();
        for request in take_due(&mut self.locked, now) {
            self.ask(vec![*request]);
        }
        for ready in take_due(&mut self.retries, now) {
            self.queue.insert(ready);
        }
    }

    pub(super) fn ended(&mut self, ready: Box<ReadyAction>, end: ActionEnd) {
        let id = ready.id;
        let early = self.stages[id.0].ended_early.take();
        match (end, early) {
            (ActionEnd::Done(record), _) => {
                let progress = &mut self.stages[id.0];
                progress.record = Some(*record);
                // Left by an earlier attempt.
                progress.failure = None;
                self.set(id, StageState::Done);
            }
            (ActionEnd::Damaged(makers), _) => {
                drop(ready);
                if let Some(maker) = makers.iter().find(|maker| !self.is_selected(**maker)) {
                    self.lacks_stages = true;
                    let maker = self.stage(*maker).name.clone();
                    let text = format!("the artifact of `{maker}` is damaged; all stages are read again");
                    self.say(EventKind::Warning { text });
                    return self.skip(id, format!("the artifact of `{maker}` is damaged"));
                }
                for maker in makers {
                    // It may be running again already; then its result is awaited.
                    if matches!(self.state(maker), StageState::Cached | StageState::Done) {
                        self.set(maker, StageState::Waiting);
                    }
                }
                self.set(id, StageState::Waiting);
            }
            (_, Some(Early::Pruned(why))) => self.skip(id, why),
            (ActionEnd::Suspended, None) => self.set(id, StageState::Suspended),
            // Killed by the second Ctrl-C: its checkpoints are as good as those of a suspended
            // stage.
            (ActionEnd::Failed { .. } | ActionEnd::Suspended, _) if self.stops_handled > 1 => {
                self.set(id, StageState::Suspended)
            }
            (ActionEnd::Failed { .. } | ActionEnd::Suspended, Some(Early::OutOfTime)) => {
                let limit = self.retry_policy(id).timeout.unwrap_or_default();
                let message = format!("it exceeded its timeout of {} s", limit.as_secs_f64());
                self.attempt_failed(ready, Failure { message, ..Failure::default() });
            }
            (ActionEnd::Failed { failure, again: true }, None) => self.attempt_failed(ready, failure),
            (ActionEnd::Failed { failure, again: false }, None) => self.fail(id, failure),
        }
    }

    /// Schedules another attempt if any is left. The action keeps its lock meanwhile.
    pub(super) fn attempt_failed(&mut self, ready: Box<ReadyAction>, failure: Failure) {
        let id = ready.id;
        let retry = self.retry_policy(id);
        let retries = retry.retries.unwrap_or(0);
        let failed = self.stages[id.0].failed + 1;
        self.stages[id.0].failed = failed;
        if failed > retries || self.is_closing() {
            return self.fail(id, failure);
        }
        let first = retry.backoff.unwrap_or(BACKOFF);
        let wait = first.saturating_mul(1 << (failed - 1).min(20)).min(LONGEST_BACKOFF.max(first));
        let stage = self.stage(id).name.clone();
        self.stages[id.0].failure = Some(failure.clone());
        self.set(id, StageState::Ready);
        self.say(EventKind::Retry { stage, attempt: failed + 1, wait: wait.as_secs_f64(), failure });
        self.retries.insert(id, Later { due: Instant::now() + wait, what: ready });
    }

    pub(super) fn fail(&mut self, id: StageId, failure: Failure) {
        self.stages[id.0].failure = Some(failure);
        self.settle_failed(id);
    }

    /// The failure is already recorded.
    pub(super) fn settle_failed(&mut self, id: StageId) {
        let failed = self.stages[id.0].failed;
        if failed > 1
            && let Some(failure) = &mut self.stages[id.0].failure
        {
            failure.hints.push(format!("it failed {failed} times"));
        }
        self.set(id, StageState::Failed);
    }
}

/// Removes and returns what is due.
fn take_due<T>(waiting: &mut BTreeMap<StageId, Later<T>>, now: Instant) -> Vec<T> {
    let due: Vec<StageId> = waiting.iter().filter(|(_, later)| later.due <= now).map(|(id, _)| *id).collect();
    due.iter().filter_map(|id| waiting.remove(id)).map(|later| later.what).collect()
}
