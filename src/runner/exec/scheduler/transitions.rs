//! State transitions of a stage and their effect on its dependents. Decides nothing.

use super::Scheduler;
use crate::event::{EventKind, Failure, StageState};
use crate::pipeline::graph::StageId;

impl Scheduler<'_> {
    /// Every transition goes through here.
    pub(super) fn set(&mut self, id: StageId, state: StageState) {
        let is_known = |state| matches!(state, StageState::Cached | StageState::Done);
        let before = std::mem::replace(&mut self.stages[id.0].state, state);
        if is_known(before) != is_known(state) {
            for i in 0..self.stages[id.0].needed_by.len() {
                let dependent = self.stages[id.0].needed_by[i];
                let lacks = &mut self.stages[dependent.0].lacks;
                *lacks = if is_known(state) { *lacks - 1 } else { *lacks + 1 };
                self.note_checkable(dependent);
            }
        }
        self.note_checkable(id);
        self.say(EventKind::State { stage: self.stage(id).name.clone(), state });
        if state.is_settled() {
            let end = EventKind::Ended(Box::new(self.end(id)));
            self.stages[id.0].end = self.report(end);
        }
        self.has_failed |= state == StageState::Failed;
        if matches!(state, StageState::Failed | StageState::Suspended) {
            self.skip_dependents(id);
        }
    }

    pub(super) fn note_checkable(&mut self, id: StageId) {
        let progress = &self.stages[id.0];
        if progress.state == StageState::Waiting && progress.lacks == 0 {
            self.checkable.insert(id);
        } else {
            self.checkable.remove(&id);
        }
    }

    /// Skips everything that depends on `id`. Iterative: a chain may be many thousand stages long.
    pub(super) fn skip_dependents(&mut self, id: StageId) {
        let mut blocked = vec![id];
        while let Some(id) = blocked.pop() {
            for i in 0..self.stages[id.0].needed_by.len() {
                let dependent = self.stages[id.0].needed_by[i];
                // A stage with several skipped inputs is reported once.
                if self.state(dependent) == StageState::Waiting {
                    self.set_skipped(dependent, format!("needs `{}`", self.stage(id).name));
                    blocked.push(dependent);
                }
            }
        }
    }

    /// Skips a stage and its dependents.
    pub(super) fn skip(&mut self, id: StageId, message: String) {
        self.set_skipped(id, message);
        self.skip_dependents(id);
    }

    pub(super) fn set_skipped(&mut self, id: StageId, message: String) {
        self.stages[id.0].failure = Some(Failure { message, ..Failure::default() });
        self.set(id, StageState::Skipped);
    }
}
