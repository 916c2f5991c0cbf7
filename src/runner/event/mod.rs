//! What happens in a run, as data. Everything a person sees is rendered from these events, the journal
//! is these events written down, and a worker process speaks them on its standard output.
//!
//! Events carry names and numbers only: no graph, no store, no styling.

pub mod progress;

use erw_base::error::{Error, Place};
use progress::PartialProgress;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a worker process says, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum WorkerEvent {
    Progress {
        done: u64,
        total: u64,
    },
    /// `None`: the value was not a finite number (JSON has no NaN).
    Metric {
        step: u64,
        name: String,
        value: Option<f64>,
    },
    /// A file inside an output that is worth showing.
    Show {
        output: String,
        file: String,
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
    /// The last word of a worker that succeeded.
    Done,
    /// The last word of a worker that put its work down.
    Suspended,
    /// The last word of a worker that failed.
    Failed {
        message: String,
        causes: Vec<String>,
        hints: Vec<String>,
    },
}

/// Where a stage stands in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not looked at, or not selected.
    #[default]
    Unknown,
    /// An input is not known yet.
    Waiting,
    /// Every input is known; being judged, or queued for threads, memory and GPUs.
    Ready,
    Running,
    /// The key is known and its outputs are in the store.
    Cached,
    /// Ran in this run.
    Done,
    Failed,
    /// Not run because something else failed or the run was stopped.
    Skipped,
    /// Put down before its end; resumes when run again.
    Suspended,
}

impl State {
    /// No further transition is expected.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Cached | Self::Done | Self::Failed | Self::Skipped | Self::Suspended)
    }
}

/// Cached stages of a run of more stages than this are counted, not listed.
pub const LISTED: usize = 200;

/// One event of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Seconds since the run began.
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
        state: State,
    },
    /// Another run is computing this very action; its result will be taken.
    Locked {
        stage: String,
        key: String,
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
    /// An attempt failed, and there will be another.
    Retry {
        stage: String,
        /// The number of the attempt that is to come.
        attempt: u32,
        /// Seconds until then.
        wait: f64,
        failure: Failure,
    },
    /// Something that had to be put right and was: damage found, a record that could not be read.
    Warning {
        text: String,
    },
    /// The end of a stage's story in this run.
    Ended(Box<StageEnd>),
    /// So many stages, all that the run looked at, are cached; stands for the end of each.
    AllCached {
        stages: usize,
    },
    RunFinished {
        seconds: f64,
        /// 0, 1, 2, 3, 4, 130 or 143.
        exit: i32,
    },
}

/// How one stage ended.
#[derive(Debug, Clone, Serialize)]
pub struct StageEnd {
    pub stage: String,
    pub kind: String,
    pub state: State,
    pub key: Option<String>,
    /// Seconds the attempt took; for a cached stage, the attempt that made it.
    pub seconds: f64,
    /// The step this run's attempt continued from.
    pub resumed: Option<u64>,
    /// For a suspended stage: from where the next attempt goes on.
    pub left: Option<PartialProgress>,
    pub results: Vec<Measure>,
    pub outputs: Vec<StoredOutput>,
    /// Files worth showing, as paths into the store.
    pub shown: Vec<PathBuf>,
    /// For a failed or skipped stage: why.
    pub error: Option<Failure>,
}

/// A named number a stage ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    pub name: String,
    /// `None`: not a finite number.
    pub value: Option<f64>,
}

/// An output and where it lies.
#[derive(Debug, Clone, Serialize)]
pub struct StoredOutput {
    pub name: String,
    pub digest: String,
    pub bytes: u64,
    pub path: PathBuf,
}

/// An error made of text, and what the worker wrote last.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Failure {
    pub message: String,
    pub causes: Vec<String>,
    pub hints: Vec<String>,
    pub log: Option<PathBuf>,
    /// The last lines of the log.
    pub tail: Vec<String>,
    /// What the pipeline says about it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "named")]
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

/// Whoever wants to know. Called from the scheduler's thread only.
pub trait Listener {
    fn event(&mut self, event: &Event);
    /// Asked after every event: stages that what was heard has made pointless, and why. They are skipped, or stopped if
    /// they run, and so is what needs them.
    fn pointless(&mut self) -> Vec<(String, String)> {
        vec![]
    }
}

/// Hands every event to several listeners.
pub struct Fan<'a>(pub Vec<Box<dyn Listener + 'a>>);

impl Listener for Fan<'_> {
    fn event(&mut self, event: &Event) {
        self.0.iter_mut().for_each(|l| l.event(event));
    }
    fn pointless(&mut self) -> Vec<(String, String)> {
        self.0.iter_mut().flat_map(|l| l.pointless()).collect()
    }
}
