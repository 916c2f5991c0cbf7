//! What a stage sees while it runs: parameters, input paths, output directories, a checkpoint
//! directory that outlives the attempt, and ways to report. It does not know the graph, the plan, the
//! store, or which stage of a pipeline it is.

use super::manifest::Params;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything a worker process needs, written as JSON to `work/<key>/job.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Stage name, for messages only.
    pub stage: String,
    pub kind: String,
    /// Key of the action, for messages and logs.
    pub key: String,
    pub params: Params,
    pub operation: Params,
    /// Slot to artifact path in the store.
    pub inputs: BTreeMap<String, PathBuf>,
    /// Output name to artifact type.
    pub outputs: BTreeMap<String, String>,
    /// `work/<key>`: `out/NAME` and `checkpoints/` lie below it.
    pub work_dir: PathBuf,
    /// Threads this attempt may use.
    pub threads: usize,
    /// `cpu`, `cuda:0`, …
    pub device: String,
}

/// One try at one stage.
pub struct Attempt {
    job: Job,
}

impl Attempt {
    /// Parameters as the kind's own struct (`deny_unknown_fields`, no `Default`).
    pub fn params<T: DeserializeOwned>(&self) -> Result<T> {
        extract(&self.job.params)
    }
    /// Operation values as the kind's own struct.
    pub fn operation<T: DeserializeOwned>(&self) -> Result<T> {
        extract(&self.job.operation)
    }
    /// Path of the artifact in a required slot.
    pub fn input(&self, slot: &str) -> Result<&Path> {
        self.optional_input(slot).ok_or_else(|| Error::stage(format!("input `{slot}` is not connected")))
    }
    /// Path of the artifact in an optional slot.
    pub fn optional_input(&self, slot: &str) -> Option<&Path> {
        self.job.inputs.get(slot).map(PathBuf::as_path)
    }
    /// Directory for an output, created empty at the start of each attempt.
    pub fn output(&self, name: &str) -> PathBuf {
        self.job.work_dir.join("out").join(name)
    }
    /// Directory that is kept until the stage succeeds, whatever kills the attempt.
    pub fn checkpoint_dir(&self) -> PathBuf {
        self.job.work_dir.join("checkpoints")
    }
    pub fn threads(&self) -> usize {
        self.job.threads
    }
    pub fn device(&self) -> &str {
        &self.job.device
    }
    /// `done` of `total` units (steps, images); may be called often, is throttled.
    pub fn progress(&self, done: u64, total: u64) {
        let _ = (done, total);
        todo!()
    }
    /// A value of a running curve, for logs and bars.
    pub fn metric(&self, step: u64, name: &str, value: f64) {
        let _ = (step, name, value);
        todo!()
    }
    /// A result of the stage, kept in the action record; the first one is the stage's key metric in tables.
    pub fn result(&self, name: &str, value: f64) {
        let _ = (name, value);
        todo!()
    }
    /// A file inside output `output` worth showing to the user at the end of the run (a picture).
    pub fn show(&self, output: &str, file: &str) {
        let _ = (output, file);
        todo!()
    }
    pub fn log(&self, text: &str) {
        let _ = text;
        todo!()
    }
    /// A checkpoint was written at this step.
    pub fn checkpointed(&self, step: u64) {
        let _ = step;
        todo!()
    }
    /// The attempt continues from a checkpoint of an earlier attempt.
    pub fn resumed(&self, step: u64) {
        let _ = step;
        todo!()
    }
    /// A stop was asked for (Ctrl-C, SIGTERM): write a checkpoint and return [`Error::suspended`].
    pub fn should_stop(&self) -> bool {
        todo!()
    }
}

fn extract<T: DeserializeOwned>(values: &Params) -> Result<T> {
    let map = values.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    serde_json::from_value(serde_json::Value::Object(map)).map_err(|e| Error::usage(e.to_string()))
}
