//! One row of a sweep's table: a trial, its state and its metrics.

use erw_runner::event::Measure;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// The status of a trial, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Cached,
    Ran,
    /// Some of its stages are not cached, and it is not known that one failed.
    Unfinished,
    Skipped,
    /// Stopped early by a rule.
    Stopped,
    Suspended,
    Failed,
}

impl Status {
    pub const ALL: [Self; 7] =
        [Self::Cached, Self::Ran, Self::Unfinished, Self::Skipped, Self::Stopped, Self::Suspended, Self::Failed];

    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Ran => "ran",
            Self::Unfinished => "unfinished",
            Self::Skipped => "skipped",
            Self::Stopped => "stopped",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
        }
    }
}

/// The status and results of a stage.
pub struct StageStatus {
    pub status: Status,
    pub results: Vec<Measure>,
}

/// A trial, or a group of trials that are averaged.
pub struct Row {
    pub name: String,
    pub trials: Vec<usize>,
    pub settings: Vec<(String, Json)>,
    pub status: BTreeMap<Status, usize>,
    /// By base stage and name, in the order of stages and of their results: the first is a stage's
    /// key metric.
    pub results: Vec<(Metric, Vec<Option<f64>>)>,
}

/// Base stage and name.
pub type Metric = (String, String);

impl Row {
    pub fn values(&self, metric: &Metric) -> Option<&Vec<Option<f64>>> {
        self.results.iter().find(|(m, _)| m == metric).map(|(_, values)| values)
    }

    /// The worst status, and how many of the trials have it.
    pub(crate) fn status(&self) -> String {
        let Some((worst, count)) = self.status.last_key_value() else { return String::new() };
        match self.trials.len() {
            n if n == *count => worst.word().into(),
            n => format!("{} {count} of {n}", worst.word()),
        }
    }
}
