//! Reads the journals of earlier runs: who ran what, when, and with which result. Does not write
//! them (the parent module does).
//!
//! A journal may be of another version or truncated: what is missing is left out, never an error.
//! The journal of a running run is locked; an ended run without a result was interrupted.

use crate::cache::store::Store;
use crate::event::Measure;
use crate::files::disk::list;
use crate::repro::git::Commit;
use erw_base::error::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    pub id: String,
    pub state: RunState,
    pub pipeline: String,
    /// The pipeline file, without links; empty in runs of earlier versions.
    pub file: PathBuf,
    pub command: Vec<String>,
    /// UTC.
    pub began: String,
    pub user: String,
    pub host: String,
    pub program: String,
    /// Class of its machine; empty in runs of earlier versions.
    pub class: String,
    /// Of the pipeline file; `None` also in runs of earlier versions and where nothing was started.
    pub commit: Option<Commit>,
    /// Until now if it runs, until its last event if it was killed.
    pub seconds: f64,
    pub exit: Option<i32>,
    /// Number of cached stages, if too many to list.
    pub cached: usize,
    pub stages: Vec<Ended>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Ended,
    Running,
    /// Killed, or its machine went down.
    #[default]
    CutOff,
}

/// The final state of a stage in a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    pub stage: String,
    pub kind: String,
    /// `cached`, `done`, `failed`, …; `running` and `cut_off` for a stage that started and did not
    /// end.
    pub state: String,
    pub key: Option<String>,
    /// Of its last attempt: until now if it runs, until the last event if the run was killed.
    pub seconds: f64,
    pub results: Vec<Measure>,
    pub error: Option<Message>,
    /// Why it ran.
    pub reasons: Vec<String>,
    /// Where its log was while it ran.
    pub log: Option<PathBuf>,
    /// Seconds from the beginning of the run to its last start.
    #[serde(skip)]
    pub started: f64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    pub message: String,
    pub causes: Vec<String>,
    pub hints: Vec<String>,
    /// The last lines of the log.
    pub tail: Vec<String>,
    /// `FILE:LINE` in the pipeline.
    pub place: Option<String>,
}

/// The folders of all runs, the latest first. Their names are the ids.
pub fn folders(store: &Store) -> Result<Vec<PathBuf>> {
    let mut folders = list(&store.runs())?;
    folders.retain(|f| f.is_dir());
    // Their names start with the time.
    folders.reverse();
    Ok(folders)
}

/// Every run, the latest first.
pub fn runs(store: &Store) -> Result<Vec<Run>> {
    let folders = folders(store)?;
    // Without a pipeline: refused before anything started.
    Ok(folders.iter().map(|f| read(f)).filter(|run| !run.pipeline.is_empty()).collect())
}

/// A run from its folder. The stages of an ended run have no reasons and logs; [`with_events`] adds
/// them.
pub fn read(folder: &Path) -> Run {
    let summary = std::fs::read(folder.join("summary.json")).ok();
    let mut run: Run = summary.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    run.id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if run.exit.is_some() {
        run.state = RunState::Ended;
        return run;
    }
    run.state = if is_locked(&folder.join("events.jsonl")) { RunState::Running } else { RunState::CutOff };
    with_events(&mut run, folder);
    run
}

/// The lock is held by the run that writes it.
fn is_locked(journal: &Path) -> bool {
    File::open(journal).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Adds what only the events contain.
pub fn with_events(run: &mut Run, folder: &Path) {
    let over = run.state == RunState::Ended;
    for event in events(folder) {
        let at = event["at"].as_f64().unwrap_or(run.seconds);
        if !over {
            run.seconds = at;
        }
        match event["event"].as_str() {
            Some("run_started") if !over => run.pipeline = text(&event["pipeline"]),
            Some("started") => {
                let reasons = event["reasons"].as_array().map_or(vec![], |all| all.iter().map(text).collect());
                let log = event["log"].as_str().map(PathBuf::from);
                let entry = entry(run, &text(&event["stage"]));
                (entry.reasons, entry.log, entry.started) = (reasons, log, at);
                if !over {
                    entry.kind = text(&event["kind"]);
                    entry.key = event["key"].as_str().map(String::from);
                    entry.state = "running".into();
                }
            }
            Some("ended") if !over => {
                let Ok(end) = serde_json::from_value::<Ended>(event) else { continue };
                let entry = entry(run, &end.stage);
                let (reasons, log, started) = (entry.reasons.clone(), entry.log.clone(), entry.started);
                *entry = Ended { reasons, log, started, ..end };
            }
            _ => {}
        }
    }
    if run.state == RunState::Running {
        run.seconds = run.seconds.max(since(&run.began));
    }
    // Of a run that was killed, nothing is known after its last event.
    for stage in run.stages.iter_mut().filter(|s| s.state == "running") {
        stage.seconds = (run.seconds - stage.started).max(0.0);
        if run.state == RunState::CutOff {
            stage.state = "cut_off".into();
        }
    }
}

/// Seconds from a time in UTC until now; 0 if the clock of its machine is ahead.
fn since(utc: &str) -> f64 {
    let began = humantime::parse_rfc3339(utc).ok();
    began.and_then(|began| began.elapsed().ok()).map_or(0.0, |passed| passed.as_secs_f64())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn entry<'r>(run: &'r mut Run, stage: &str) -> &'r mut Ended {
    let found = run.stages.iter().position(|s| s.stage == stage);
    let at = found.unwrap_or_else(|| {
        run.stages.push(Ended { stage: stage.into(), ..Ended::default() });
        run.stages.len() - 1
    });
    &mut run.stages[at]
}

/// The events of a run in order; a truncated last line is left out.
fn events(folder: &Path) -> impl Iterator<Item = Value> {
    let file = File::open(folder.join("events.jsonl")).ok();
    let lines = file.into_iter().flat_map(|f| BufReader::new(f).lines().map_while(|l| l.ok()));
    lines.filter_map(|line| serde_json::from_str(&line).ok())
}

/// The key and the log of the last attempt of a stage in any run of the pipeline.
pub fn last_attempt(store: &Store, pipeline: &str, stage: &str) -> Result<Option<(String, PathBuf)>> {
    for mut run in runs(store)?.into_iter().filter(|r| r.pipeline == pipeline) {
        let folder = store.runs().join(&run.id);
        with_events(&mut run, &folder);
        let found = run.stages.into_iter().find(|s| s.stage == stage);
        if let Some((key, log)) = found.and_then(|s| Some((s.key?, s.log?))) {
            return Ok(Some((key, log)));
        }
    }
    Ok(None)
}
