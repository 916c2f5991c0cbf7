//! What the scheduler knows, told as events. Changes nothing.

use super::Scheduler;
use crate::event::progress::Left;
use crate::event::{StageEnd, State, What, WorkerEvent};
use crate::exec::executor::Start;
use crate::exec::resources::Grant;
use crate::pipeline::graph::StageId;

impl Scheduler<'_> {
    pub(super) fn tell_start(&mut self, id: StageId, start: Start, grant: &Grant) {
        let (stage, progress) = (self.stage(id), &self.stages[id.0]);
        let what = What::Started {
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            key: progress.key.map(|k| k.to_string()).unwrap_or_default(),
            reasons: progress.reasons.iter().map(ToString::to_string).collect(),
            attempt: start.attempt,
            threads: grant.threads,
            device: grant.device(),
            log: start.log,
        };
        self.say(what);
    }

    pub(super) fn pass_on(&mut self, id: StageId, event: WorkerEvent) {
        let stage = self.stage(id).name.clone();
        let what = match event {
            WorkerEvent::Progress { done, total } => What::Progress { stage, done, total },
            WorkerEvent::Metric { step, name, value } => What::Metric { stage, step, name, value },
            WorkerEvent::Log { text } => What::Log { stage, text },
            WorkerEvent::Checkpoint { step } => What::Checkpoint { stage, step },
            WorkerEvent::Resumed { step } => What::Resumed { stage, step },
            // Told when the stage has ended.
            _ => return,
        };
        self.say(what);
    }

    pub(super) fn end(&self, id: StageId) -> StageEnd {
        let stage = self.stage(id);
        let store = self.shop.judge.store;
        let progress = &self.stages[id.0];
        let record = progress.record.as_ref();
        let state = self.state(id);
        let record = record.filter(|_| matches!(state, State::Cached | State::Done));
        StageEnd {
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            state,
            key: progress.key.map(|k| k.to_string()),
            seconds: record.map_or(0.0, |r| r.seconds),
            resumed: record.filter(|_| state == State::Done).and_then(|r| r.resumed),
            left: progress
                .key
                .filter(|_| state == State::Suspended)
                .and_then(|key| Left::in_folder(&store.work_dir(&key))),
            results: record.map_or(vec![], |r| r.results.clone()),
            outputs: record.map_or(vec![], |r| r.outputs.iter().map(|(name, o)| o.stored(store, name)).collect()),
            shown: record.map_or(vec![], |r| r.shown_paths(store)),
            error: progress.failure.clone(),
        }
    }
}
