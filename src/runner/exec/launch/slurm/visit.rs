//! The visit of a job: what was seen of it so far, and what of that was told. Does not decide what
//! it means.

use super::pace::{QUIET, TICK};
use super::state::{JobStatus, Phase};
use crate::event::WorkerEvent;
use crate::kind::attempt::Job;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often a scheduler that does not answer is told of.
const REMINDER: Duration = Duration::from_secs(60);

/// What was seen of a job so far.
pub(super) struct Visit {
    pub(super) began: Instant,
    pub(super) events: Events,
    /// The state that was told last.
    pub(super) told: Option<(String, String)>,
    /// Since when the job has ended or is unknown, without a report.
    pub(super) is_over: Option<Instant>,
    /// When it was told last that the scheduler is silent.
    pub(super) silent: Option<Instant>,
    /// When the job was asked to stop.
    pub(super) asked: Option<Instant>,
    /// The last pause, and what had been read before it.
    pause: Duration,
    read: u64,
}

impl Visit {
    pub(super) fn of(job: &Job) -> Self {
        let events = Events { file: job.events_file(), at: 0 };
        let (pause, read) = (TICK, 0);
        Self { began: Instant::now(), events, told: None, is_over: None, silent: None, asked: None, pause, read }
    }

    /// How long to wait before the next look: longer and longer while nothing happens.
    pub(super) fn pause(&mut self) -> Duration {
        let is_quiet = self.read == self.events.at && self.asked.is_none() && self.is_over.is_none();
        self.read = self.events.at;
        self.pause = if is_quiet { (self.pause * 5 / 4).min(QUIET) } else { TICK };
        self.pause
    }

    pub(super) fn tell_state(&mut self, status: &JobStatus, tell: &mut dyn FnMut(WorkerEvent)) {
        let now = (status.state.clone(), status.reason.clone());
        if self.told.as_ref() == Some(&now) {
            return;
        }
        let JobStatus { id, state, reason, nodes } = status;
        match status.phase() {
            Phase::Running => log(tell, format!("job {id} is {} on {nodes}", state.to_lowercase())),
            _ => match status.endless() {
                Some(reason) => log(tell, format!("job {id} waits, and will not start by itself: {reason}")),
                None => log(tell, format!("job {id} is {}: {reason}", state.to_lowercase())),
            },
        }
        self.told = Some(now);
    }

    pub(super) fn tell_silence(&mut self, words: &str, tell: &mut dyn FnMut(WorkerEvent)) {
        if self.silent.is_none_or(|told| told.elapsed() > REMINDER) {
            log(tell, format!("Slurm does not answer; jobs go on meanwhile: {words}"));
            self.silent = Some(Instant::now());
        }
    }
}

/// The events of a worker, read as it writes them.
pub(super) struct Events {
    file: PathBuf,
    at: u64,
}

impl Events {
    /// Passes on the lines that are complete and new.
    pub(super) fn pass_on(&mut self, tell: &mut dyn FnMut(WorkerEvent)) {
        let mut bytes = vec![];
        let read = File::open(&self.file).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.at))?;
            file.read_to_end(&mut bytes)
        });
        let Some(end) = read.ok().and_then(|_| bytes.iter().rposition(|byte| *byte == b'\n')) else { return };
        self.at += end as u64 + 1;
        bytes[..end].split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).for_each(tell);
    }
}

pub(super) fn log(tell: &mut dyn FnMut(WorkerEvent), text: String) {
    tell(WorkerEvent::Log { text });
}
