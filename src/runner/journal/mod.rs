//! The journal of a run: `runs/<id>/events.jsonl` has every event, `summary.json` who started the
//! run and, once it has ended, its result. A run without an `exit` in its summary was interrupted,
//! unless the lock on its events shows that it is still running. It is for people and programs that
//! look back (`read`); nothing that runs a stage reads it. A file `stop` beside it asks its run to
//! stop. Failing to write it must not break a
//! run: the first failure is remembered and writing stops.

pub mod at_work;
pub mod attempts;
pub mod explain;
pub mod lineage;
pub mod read;
pub mod record_use;

use crate::cache::store::Store;
use crate::event::{Event, EventKind, Listener, StageEnd, StageState};
use crate::exec::stop_request;
use crate::files::disk::{Durability, unique, write_file};
use crate::host::{self, host, user, utc_now};
use crate::repro::git::Commit;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub struct Journal {
    folder: PathBuf,
    events: io::Result<File>,
    summary: Summary,
    asked_git: bool,
}

#[derive(Debug, Serialize)]
struct Summary {
    format: u32,
    pipeline: String,
    /// The pipeline file, without links.
    file: PathBuf,
    /// The command line.
    command: Vec<String>,
    began: String,
    user: String,
    host: String,
    program: &'static str,
    /// Class of the machine that the run was started on.
    class: &'static str,
    /// Of the pipeline file, once a stage was started.
    commit: Option<Commit>,
    seconds: f64,
    exit: Option<i32>,
    /// Number of cached stages, if too many to list below.
    cached: usize,
    stages: Vec<StageEnd>,
}

impl Journal {
    /// Starts a journal in a folder named by the time; the name is the run's id.
    pub fn start(store: &Store, file: &Path) -> Self {
        let began = utc_now();
        let id = began.replace([':', '-'], "").replace('T', "-").replace(['.', 'Z'], "");
        // Two hosts may start a run at the same moment.
        let folder = store.runs().join(format!("{id}{}", unique().replace(".tmp", "").get(..5).unwrap_or_default()));
        let events = std::fs::create_dir_all(&folder).and_then(|()| File::create(folder.join("events.jsonl")));
        // Nobody else writes this file. Where locks are unavailable, a running run looks
        // interrupted, nothing worse.
        let _ = events.as_ref().map(File::try_lock);
        let summary = Summary {
            format: 1,
            pipeline: String::new(),
            file: file.canonicalize().unwrap_or_else(|_| file.into()),
            command: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
            began,
            user: user(),
            host: host(),
            program: env!("CARGO_PKG_VERSION"),
            class: host::class(),
            commit: None,
            seconds: 0.0,
            exit: None,
            cached: 0,
            stages: vec![],
        };
        Self { folder, events, summary, asked_git: false }
    }

    /// Skips what most stages of a large pipeline report most of the time, waiting and being
    /// cached: it would bury the rest.
    fn is_worth_noting(what: &EventKind) -> bool {
        match what {
            EventKind::State { state, .. } => {
                !matches!(state, StageState::Waiting | StageState::Ready | StageState::Cached)
            }
            EventKind::Ended(end) => end.state != StageState::Cached,
            _ => true,
        }
    }

    fn summarize(&self) {
        if let Ok(text) = serde_json::to_vec(&self.summary) {
            let _ = write_file(&self.folder.join("summary.json"), &text, Durability::Later);
        }
    }

    fn note(&mut self, event: &Event) {
        if let Ok(file) = &mut self.events {
            let line = serde_json::to_vec(event).map_err(io::Error::from);
            let written = line.and_then(|mut line| {
                line.push(b'\n');
                file.write_all(&line)
            });
            if let Err(e) = written {
                self.events = Err(e);
            }
        }
    }
}

impl Listener for Journal {
    fn event(&mut self, event: &Event) {
        if Self::is_worth_noting(&event.what) {
            self.note(event);
        }
        match &event.what {
            EventKind::RunStarted { pipeline, .. } => {
                self.summary.pipeline.clone_from(pipeline);
                self.summarize();
            }
            // Its record says where the outputs of a cached stage are.
            EventKind::Ended(end) if end.state == StageState::Cached => {
                let bare = StageEnd { outputs: vec![], shown: vec![], ..(**end).clone() };
                self.summary.stages.push(bare);
            }
            EventKind::Ended(end) => self.summary.stages.push((**end).clone()),
            // Not for runs that start nothing: asking git takes longer than they do.
            EventKind::Started { .. } if !self.asked_git => {
                self.asked_git = true;
                self.summary.commit = Commit::of(&self.summary.file);
                self.summarize();
            }
            EventKind::CachedStages { stages } => self.summary.cached = *stages,
            EventKind::RunFinished { seconds, exit } => {
                self.summary.seconds = *seconds;
                self.summary.exit = Some(*exit);
                self.summarize();
            }
            _ => {}
        }
    }

    fn is_unwanted(&self) -> bool {
        stop_request::is_there(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_cannot_be_written_breaks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::fs::remove_dir_all(store.runs()).unwrap();
        std::fs::write(store.runs(), "in the way").unwrap();
        let mut journal = Journal::start(&store, Path::new("p.toml"));
        journal.event(&Event { at: 0.0, what: EventKind::RunFinished { seconds: 1.0, exit: 0 } });
        assert!(journal.events.is_err());
    }
}
