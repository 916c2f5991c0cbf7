//! The journal of a run: `runs/<id>/events.jsonl`, every event as it happened, and `summary.json`, who began it and,
//! once it has ended, how. A run without an `exit` in its summary was cut off, unless the lock on its events says that it
//! is under way. For people and programs that look back (`history`); nothing that runs a stage reads it, and failing to
//! write it must not break a run: the first failure is remembered, the rest is silence.

use super::disk::{Keep, unique, write_file};
use super::event::{Event, Listener, StageEnd, State, What};
use super::store::Store;
use nix::unistd::{Uid, User};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Journal {
    folder: PathBuf,
    events: io::Result<File>,
    summary: Summary,
}

#[derive(Debug, Serialize)]
struct Summary {
    format: u32,
    pipeline: String,
    /// The command line.
    command: Vec<String>,
    began: String,
    user: String,
    host: String,
    program: &'static str,
    seconds: f64,
    exit: Option<i32>,
    /// Cached stages that are too many to be listed below.
    cached: usize,
    stages: Vec<StageEnd>,
}

impl Journal {
    /// Starts a journal in a folder named by the time; its name is the run's id.
    pub fn start(store: &Store) -> Self {
        let began = utc_now();
        let id = began.replace([':', '-'], "").replace('T', "-").replace(['.', 'Z'], "");
        // Two hosts may begin a run at the same moment.
        let folder = store.runs().join(format!("{id}{}", unique().replace(".tmp", "").get(..5).unwrap_or_default()));
        let events = std::fs::create_dir_all(&folder).and_then(|()| File::create(folder.join("events.jsonl")));
        // Nobody else writes this file; where locks are not to be had a run under way looks cut off, and that is all.
        let _ = events.as_ref().map(File::try_lock);
        let summary = Summary {
            format: 1,
            pipeline: String::new(),
            command: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
            began,
            user: user(),
            host: host(),
            program: env!("CARGO_PKG_VERSION"),
            seconds: 0.0,
            exit: None,
            cached: 0,
            stages: vec![],
        };
        Self { folder, events, summary }
    }

    /// What most stages of a large pipeline do most of the time, waiting and being cached, would only bury the rest.
    fn is_worth_noting(what: &What) -> bool {
        match what {
            What::State { state, .. } => !matches!(state, State::Waiting | State::Ready | State::Cached),
            What::Ended(end) => end.state != State::Cached,
            _ => true,
        }
    }

    fn summarize(&self) {
        if let Ok(text) = serde_json::to_vec(&self.summary) {
            let _ = write_file(&self.folder.join("summary.json"), &text, Keep::Later);
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
            What::RunStarted { pipeline, .. } => {
                self.summary.pipeline.clone_from(pipeline);
                self.summarize();
            }
            // Where the outputs of a cached stage lie is told by its record.
            What::Ended(end) if end.state == State::Cached => {
                let bare = StageEnd { outputs: vec![], shown: vec![], ..(**end).clone() };
                self.summary.stages.push(bare);
            }
            What::Ended(end) => self.summary.stages.push((**end).clone()),
            What::AllCached { stages } => self.summary.cached = *stages,
            What::RunFinished { seconds, exit } => {
                self.summary.seconds = *seconds;
                self.summary.exit = Some(*exit);
                self.summarize();
            }
            _ => {}
        }
    }
}

/// Who runs this program: the name of its user id as the system's name service has it, else what the environment says.
pub fn user() -> String {
    let id = Uid::effective();
    let named = User::from_uid(id).ok().flatten().map(|user| user.name);
    named.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| id.to_string())
}

/// The name of this machine. Asked for once: every record has it.
pub fn host() -> String {
    static HOST: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/hostname");
    HOST.get_or_init(|| read().map_or_else(|_| "unknown".into(), |h| h.trim().into())).clone()
}

/// The model of the processor, or of the first GPU, as the kernel tells it. Recorded, not in any key.
pub fn model(gpu: bool) -> Option<String> {
    static MODELS: [OnceLock<Option<String>>; 2] = [OnceLock::new(), OnceLock::new()];
    MODELS[usize::from(gpu)].get_or_init(|| read_model(gpu)).clone()
}

fn read_model(gpu: bool) -> Option<String> {
    let field = |text: String, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name))?.split_once(':')?.1.trim().to_string();
        Some(line)
    };
    if !gpu {
        return field(std::fs::read_to_string("/proc/cpuinfo").ok()?, "model name");
    }
    let first = std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?.next()?.ok()?;
    field(std::fs::read_to_string(first.path().join("information")).ok()?, "Model")
}

/// Now, as `2026-01-31T12:00:00.000Z`: texts in this form sort by time.
pub fn utc_now() -> String {
    utc(SystemTime::now())
}

/// A clock that was never set may stand before 1970, of which humantime has no text.
fn utc(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(UNIX_EPOCH)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_have_one_form() {
        let at = |millis: u64| utc(UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399_007), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(UNIX_EPOCH - Duration::from_secs(1)), at(0));
    }

    #[test]
    fn a_journal_that_cannot_be_written_breaks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::fs::remove_dir_all(store.runs()).unwrap();
        std::fs::write(store.runs(), "in the way").unwrap();
        let mut journal = Journal::start(&store);
        journal.event(&Event { at: 0.0, what: What::RunFinished { seconds: 1.0, exit: 0 } });
        assert!(journal.events.is_err());
    }
}
