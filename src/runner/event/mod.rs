//! The events of a run, as data. Everything a person sees is rendered from these events, the
//! journal stores them, and a worker process writes them to its standard output.
//!
//! Events carry names and numbers only: no graph, no store, no styling.

pub mod progress;

use erw_base::error::{Error, Place};
use progress::PartialProgress;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a worker process reports, one JSON object per line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum WorkerEvent {
    /// The attempt begins: it has the resources that it was given.
    Started,
    Progress {
        done: u64,
        total: u64,
    },
    /// `None`: not a finite number (JSON has no NaN).
    Metric {
        step: u64,
        name: String,
        value: Option<f64>,
    },
    Log {
        text: String,
    },
    Checkpoint {
        step: u64,
    },
    Resumed {
        step: u64,
    },
}

/// The state of a stage in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// Not selected, or not looked at yet.
    #[default]
    Unknown,
    /// An input is not known yet.
    Waiting,
    /// Every input is known; being checked, or queued for threads, memory and GPUs.
    Ready,
    Running,
    /// The key is known and its outputs are in the store.
    Cached,
    /// Ran in this run.
    Done,
    Failed,
    /// Not run because something else failed or the run was stopped.
    Skipped,
    /// Stopped early; a rerun resumes it.
    Suspended,
}

impl StageState {
    /// No further transition is expected.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Cached | Self::Done | Self::Failed | Self::Skipped | Self::Suspended)
    }
}

/// Above this many stages, cached ones are counted, not listed.
pub const LISTED: usize = 200;

/// One event of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Seconds since the run started.
    pub at: f64,
    /// Flattened for writing only: these lines are never read back into this type.
    #[serde(flatten)]
    pub what: EventKind,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    RunStarted {
        pipeline: String,
        stages: usize,
        jobs: usize,
        threads: usize,
    },
    /// Every transition of every stage.
    State {
        stage: String,
        state: StageState,
    },
    /// Another run is executing the same action, or a stage of this run with the same key, `twin`;
    /// its result will be used.
    Locked {
        stage: String,
        key: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        twin: Option<String>,
    },
    Started {
        stage: String,
        kind: String,
        key: String,
        /// Why it is not cached, rendered.
        reasons: Vec<String>,
        attempt: u32,
        threads: usize,
        device: String,
        log: PathBuf,
    },
    Progress {
        stage: String,
        done: u64,
        total: u64,
    },
    Metric {
        stage: String,
        step: u64,
        name: String,
        value: Option<f64>,
    },
    Log {
        stage: String,
        text: String,
    },
    Checkpoint {
        stage: String,
        step: u64,
    },
    Resumed {
        stage: String,
        step: u64,
    },
    /// An attempt failed and another one follows.
    Retry {
        stage: String,
        /// The number of the next attempt.
        attempt: u32,
        /// Seconds until then.
        wait: f64,
        failure: Failure,
    },
    /// A problem that was handled: damage found, an unreadable record.
    Warning {
        text: String,
    },
    /// The final state of a stage in this run.
    Ended(Box<StageEnd>),
    /// This many stages of a large pipeline are cached. Replaces the final event of each.
    CachedStages {
        stages: usize,
    },
    RunFinished {
        seconds: f64,
        /// 0, 1, 2, 3, 4, 130 or 143.
        exit: i32,
    },
}

/// The final state of one stage.
#[derive(Debug, Clone, Serialize)]
pub struct StageEnd {
    pub stage: String,
    pub kind: String,
    pub state: StageState,
    pub key: Option<String>,
    /// Seconds the last attempt took, also if it failed or was suspended; for a cached stage, the
    /// attempt that produced it.
    pub seconds: f64,
    /// The step at which this run's attempt resumed.
    pub resumed: Option<u64>,
    /// For a suspended stage: where the next attempt resumes.
    pub left: Option<PartialProgress>,
    pub results: Vec<Measure>,
    pub outputs: Vec<StoredOutput>,
    /// Files worth showing, as paths into the store.
    pub shown: Vec<PathBuf>,
    /// Why a stage failed or was skipped.
    pub error: Option<Failure>,
}

/// A named number among the results of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    pub name: String,
    /// `None`: not a finite number.
    pub value: Option<f64>,
}

/// An output with its path.
#[derive(Debug, Clone, Serialize)]
pub struct StoredOutput {
    pub name: String,
    pub digest: String,
    pub bytes: u64,
    pub path: PathBuf,
}

/// An error as text, with the last lines of the worker's log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Failure {
    pub message: String,
    pub causes: Vec<String>,
    pub hints: Vec<String>,
    pub log: Option<PathBuf>,
    /// The last lines of the log.
    pub tail: Vec<String>,
    /// The place in the pipeline file.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "named", skip_deserializing)]
    pub place: Option<Box<Place>>,
}

/// `p.toml:3`.
fn named<S: serde::Serializer>(place: &Option<Box<Place>>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&place.as_ref().map(ToString::to_string).unwrap_or_default())
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self { message: e.message, causes: e.causes, hints: e.hints, place: e.place, ..Self::default() }
    }
}

/// Receives events, on the scheduler's thread only.
pub trait Listener {
    fn event(&mut self, event: &Event);
    /// Called after every event: stages that the events so far have made pointless, each with the
    /// reason. They and their dependents are skipped, or stopped if running.
    fn pointless(&mut self) -> Vec<(String, String)> {
        vec![]
    }
    /// Asked from time to time: whether somebody wants the run to stop.
    fn is_unwanted(&self) -> bool {
        false
    }
}

/// Passes every event to several listeners.
pub struct Fan<'a>(pub Vec<Box<dyn Listener + 'a>>);

impl Listener for Fan<'_> {
    fn event(&mut self, event: &Event) {
        self.0.iter_mut().for_each(|l| l.event(event));
    }
    fn pointless(&mut self) -> Vec<(String, String)> {
        self.0.iter_mut().flat_map(|l| l.pointless()).collect()
    }
    fn is_unwanted(&self) -> bool {
        self.0.iter().any(|l| l.is_unwanted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts and the journal read these names.
    #[test]
    fn transitions_keep_their_names_in_json() {
        let states = [
            (StageState::Unknown, "unknown"),
            (StageState::Waiting, "waiting"),
            (StageState::Ready, "ready"),
            (StageState::Running, "running"),
            (StageState::Cached, "cached"),
            (StageState::Done, "done"),
            (StageState::Failed, "failed"),
            (StageState::Skipped, "skipped"),
            (StageState::Suspended, "suspended"),
        ];
        for (state, name) in states {
            let event = Event { at: 1.0, what: EventKind::State { stage: "a".into(), state } };
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(json, serde_json::json!({ "at": 1.0, "event": "state", "stage": "a", "state": name }));
        }
    }
}
