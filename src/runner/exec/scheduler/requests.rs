//! Requests to stop that others left as files (`exec::stop_request`): of the whole run, which its
//! journal knows, and of single stages. Does not know who asked.

use super::Scheduler;
use crate::event::StageState;
use crate::exec::stop_request;
use crate::pipeline::graph::StageId;
use std::time::{Duration, Instant};

/// How often they are looked for.
const INTERVAL: Duration = Duration::from_secs(1);

impl Scheduler<'_> {
    /// Obeys what is new. A stage that waits for its turn has no work folder to look into yet.
    pub(super) fn handle_requests(&mut self) {
        if self.looked.elapsed() < INTERVAL {
            return;
        }
        self.looked = Instant::now();
        // A later one would count as the second.
        if self.stop.count() == 0 && self.listener.is_unwanted() {
            self.stop.ask(libc::SIGINT, self.looked);
        }
        let is_asked = |id: &StageId| {
            let key = self.stages[id.0].key;
            key.is_some_and(|key| stop_request::is_there(&self.executor.checker.store.work_dir(&key)))
        };
        let asked: Vec<StageId> = self.watched.iter().copied().filter(is_asked).collect();
        for id in asked {
            let is_told = match self.retries.remove(&id) {
                Some(_) => {
                    self.set(id, StageState::Suspended);
                    true
                }
                None => self.executor.workers.stop_one(id.0),
            };
            if is_told {
                self.watched.remove(&id);
            }
        }
    }
}
