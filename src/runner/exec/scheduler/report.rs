//! Reports the scheduler's state as events. Changes nothing.

use super::Scheduler;
use crate::event::progress::PartialProgress;
use crate::event::{EventKind, StageEnd, StageState, WorkerEvent};
use crate::exec::executor::ActionStart;
use crate::exec::resources::Allocation;
use crate::pipeline::graph::StageId;

impl Scheduler<'_> {
    pub(super) fn report_start(&mut self, id: StageId, start: ActionStart, allocation: &Allocation) {
        let (stage, progress) = (self.stage(id), &self.stages[id.0]);
        let what = EventKind::Started {
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            key: progress.key.map(|k| k.to_string()).unwrap_or_default(),
            reasons: progress.reasons.iter().map(ToString::to_string).collect(),
            attempt: start.attempt,
            threads: allocation.threads,
            device: allocation.device(),
            log: start.log,
        };
        self.say(what);
    }

    pub(super) fn forward_event(&mut self, id: StageId, event: WorkerEvent) {
        let stage = self.stage(id).name.clone();
        let what = match event {
            WorkerEvent::Progress { done, total } => EventKind::Progress { stage, done, total },
            WorkerEvent::Metric { step, name, value } => EventKind::Metric { stage, step, name, value },
            WorkerEvent::Log { text } => EventKind::Log { stage, text },
            WorkerEvent::Checkpoint { step } => EventKind::Checkpoint { stage, step },
            WorkerEvent::Resumed { step } => EventKind::Resumed { stage, step },
            // The scheduler's own.
            WorkerEvent::Started => return,
        };
        self.say(what);
    }

    /// The end that was reported, which is the last thing asked of a stage.
    pub(super) fn last_end(&mut self, id: StageId) -> StageEnd {
        self.stages[id.0].end.take().map_or_else(|| self.end(id), |end| *end)
    }

    pub(super) fn end(&self, id: StageId) -> StageEnd {
        let stage = self.stage(id);
        let store = self.executor.checker.store;
        let progress = &self.stages[id.0];
        let record = progress.record.as_ref();
        let state = self.state(id);
        let record = record.filter(|_| matches!(state, StageState::Cached | StageState::Done));
        StageEnd {
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            state,
            key: progress.key.map(|k| k.to_string()),
            seconds: record.map_or(progress.took.as_secs_f64(), |r| r.seconds),
            resumed: record.filter(|_| state == StageState::Done).and_then(|r| r.resumed),
            left: progress
                .key
                .filter(|_| state == StageState::Suspended)
                .and_then(|key| PartialProgress::in_folder(&store.work_dir(&key))),
            results: record.map_or(vec![], |r| r.results.clone()),
            outputs: record.map_or(vec![], |r| r.outputs.iter().map(|(name, o)| o.stored(store, name)).collect()),
            shown: record.map_or(vec![], |r| r.shown_paths(store)),
            error: progress.failure.clone(),
        }
    }
}
