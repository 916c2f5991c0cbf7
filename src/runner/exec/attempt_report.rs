//! The report of an attempt: how it ended, what it made, and on which machine.
//!
//! Whoever executes an attempt writes the report as its last act: a worker into the file
//! `attempt-N.end.json` of its work folder, the runner, for a program that it starts itself, into
//! memory. Nothing else is believed. An exit status says too little, and a cluster's scheduler can
//! call a job complete in which nothing ran. Does not know the graph or keys.

use crate::event::{Failure, Measure};
use crate::files::digest::Measured;
use crate::files::disk::{Durability, read_json, write_json};
use crate::host;
use crate::kind::attempt::Job;
use erw_base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// How an attempt ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    Done,
    /// Stopped at a checkpoint; another attempt resumes it.
    Suspended,
    Failed(Failure),
    /// It came to its end, but its outputs cannot be used; another attempt would not help.
    Rejected(Failure),
    /// Ended from outside, which is no fault of its own: another attempt resumes it at once. Said
    /// by a launcher only.
    Interrupted(String),
    /// Nothing was begun, because the artifacts in these input slots do not match their digests.
    Damaged(Vec<String>),
}

/// The report of an attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttemptReport {
    pub end: AttemptEnd,
    /// Every declared output, if it is done.
    pub outputs: BTreeMap<String, Measured>,
    pub results: Vec<Measure>,
    /// Warnings about the results.
    pub remarks: Vec<String>,
    /// (output, file).
    pub shown: Vec<(String, String)>,
    /// The step at which it resumed.
    pub resumed: Option<u64>,
    /// Peak memory, in bytes.
    pub peak: u64,
    pub machine: Machine,
}

impl AttemptReport {
    /// A report of an attempt that made nothing.
    pub fn of(end: AttemptEnd, machine: Machine) -> Self {
        Self {
            end,
            outputs: BTreeMap::new(),
            results: vec![],
            remarks: vec![],
            shown: vec![],
            resumed: None,
            peak: 0,
            machine,
        }
    }

    /// Writes the report to its file. From then on the attempt has ended.
    pub fn write(&self, job: &Job, durability: Durability) -> Result<()> {
        write_json(&job.end_file(), self, durability)
    }

    /// The report that an attempt left; `None` if it has not ended.
    pub fn read(job: &Job) -> Result<Option<Self>> {
        read_json(&job.end_file())
    }
}

/// The machine that executed an attempt.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    pub host: String,
    /// See [`host::class`].
    pub class: String,
    /// `cpu`, `cuda:0`, … and the model.
    pub device: String,
    /// Version of erw.
    pub program: String,
    /// Other classes of machines whose checkpoints the attempt resumed.
    pub earlier: Vec<String>,
}

impl Machine {
    /// What the bytes of a job depend on, on this machine.
    pub fn name_of(job: &Job) -> String {
        host::of(host::class(), &device(job))
    }

    /// This machine, about to execute a job.
    ///
    /// # Errors
    /// When the work folder cannot be written to.
    pub fn of(job: &Job) -> Result<Self> {
        let device = device(job);
        let work: &Path = &job.work_dir;
        let note = || host::begin(work, &Self::name_of(job)).map_err(|e| Error::io("write to", work, e));
        let earlier = if job.keeps_checkpoints() { note()? } else { vec![] };
        Ok(Self {
            host: host::host(),
            class: host::class().into(),
            device,
            program: env!("CARGO_PKG_VERSION").into(),
            earlier,
        })
    }
}

/// The device of a job and its model.
fn device(job: &Job) -> String {
    match host::model(job.device != "cpu") {
        Some(model) => format!("{}, {model}", job.device),
        None => job.device.clone(),
    }
}
