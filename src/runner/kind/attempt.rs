//! The interface of a running stage: parameters, input paths, output folders, a checkpoint folder
//! that outlives the attempt, and ways to report. It does not know the graph, the plan, the store,
//! or which stage of a pipeline it is.

use super::field::{Params, element, parse};
use super::ranks::Numbering;
use super::step_log::{METRICS, StepLog, TIMES};
use crate::event::WorkerEvent;
use crate::event::progress::{self, Reached};
use erw_base::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Minimum interval between progress events: a bar cannot show more, and the journal keeps every
/// line.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The results of an attempt, in its work folder: an object of numbers, as programs write theirs.
pub const RESULTS: &str = "metrics.json";

/// Pictures of work in progress, in a work folder and later beside the logs.
pub const PICTURES: &str = "pictures";

/// Everything a worker process needs, written as JSON to `work/<key>/attempt-N.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Stage name, for messages only.
    pub stage: String,
    pub kind: String,
    /// Key of the action, for messages and logs.
    pub key: String,
    /// Path parameters hold the resolved, absolute path.
    pub params: Params,
    pub operation: Params,
    /// Slot to artifact path in the store; elements of a list slot by their names ([`element`]).
    pub inputs: BTreeMap<String, PathBuf>,
    /// Output name to artifact type.
    pub outputs: BTreeMap<String, String>,
    /// `work/<key>`: `attempt-N/NAME` and `checkpoints/` lie below it.
    pub work_dir: PathBuf,
    /// Its number, from 1 on. Each attempt has a folder of outputs of its own: one that was given
    /// up for lost may still be writing.
    #[serde(default = "first")]
    pub attempt: u32,
    /// The cache folder.
    #[serde(default)]
    pub cache: PathBuf,
    /// Slots whose artifacts must be verified before they are used.
    #[serde(default)]
    pub unverified: Vec<String>,
    /// The worker outlives its runner: it writes its events to a file, and holds a lock of its own.
    #[serde(default)]
    pub detached: bool,
    /// Threads that this attempt, or each of its ranks, may use.
    pub threads: usize,
    /// Processes that share the work.
    #[serde(default = "alone")]
    pub ranks: usize,
    /// Who numbers them.
    #[serde(default)]
    pub numbering: Numbering,
    /// `cpu`, `cuda:0`, …
    pub device: String,
    /// Program and arguments of a `kind = "command"` stage, with placeholders not filled yet.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Name of the pipeline, and its file without links, for messages only.
    #[serde(default)]
    pub pipeline: String,
    #[serde(default)]
    pub pipeline_file: PathBuf,
    /// Directory of the pipeline file, where a command runs.
    #[serde(default)]
    pub pipeline_dir: PathBuf,
    /// The downloads folder.
    #[serde(default)]
    pub downloads: PathBuf,
}

fn first() -> u32 {
    1
}

fn alone() -> usize {
    1
}

impl Job {
    /// The folder with the outputs of this attempt.
    pub fn out_dir(&self) -> PathBuf {
        self.work_dir.join(format!("attempt-{}", self.attempt))
    }
    /// The path at which an output is created.
    pub fn output(&self, name: &str) -> PathBuf {
        self.out_dir().join(name)
    }
    /// The file that this job is written to.
    pub fn file(&self) -> PathBuf {
        self.work_dir.join(format!("attempt-{}.json", self.attempt))
    }
    /// The file with which the attempt ends, see `exec::attempt_report`.
    pub fn end_file(&self) -> PathBuf {
        self.work_dir.join(format!("attempt-{}.end.json", self.attempt))
    }
    pub fn log_file(&self) -> PathBuf {
        self.work_dir.join(format!("attempt-{}.log", self.attempt))
    }
    /// The log of another rank than the first.
    pub fn log_of_rank(&self, rank: usize) -> PathBuf {
        match rank {
            0 => self.log_file(),
            _ => self.work_dir.join(format!("attempt-{}.rank-{rank}.log", self.attempt)),
        }
    }
    /// The events of a detached worker, one a line.
    pub fn events_file(&self) -> PathBuf {
        self.work_dir.join(format!("attempt-{}.events", self.attempt))
    }
    /// A folder that is kept until the stage succeeds, whatever kills the attempt.
    pub fn checkpoint_dir(&self) -> PathBuf {
        self.work_dir.join("checkpoints")
    }
    /// Whether it has such a folder: all kinds do, and commands that name it.
    pub fn keeps_checkpoints(&self) -> bool {
        self.command.as_ref().is_none_or(|run| run.iter().any(|word| word.contains("{checkpoints}")))
    }
}

/// One attempt at one stage, or one of the ranks that share it. Only the first rank reports: of the
/// others, only what they log is kept.
pub struct Attempt {
    job: Job,
    rank: usize,
    stop: Arc<AtomicBool>,
    events: Mutex<EventWriter>,
    results: Mutex<Map<String, Value>>,
    shown: Mutex<Vec<(String, String)>>,
    resumed: Mutex<Option<u64>>,
}

struct EventWriter {
    out: Box<dyn Write + Send>,
    last_progress: Option<Instant>,
    metrics: StepLog,
    times: StepLog,
    /// Total units of work, once known.
    total: Option<u64>,
    /// The step log could not be written. Reported once, and nothing fails: the journal has the
    /// numbers too.
    write_failed: bool,
}

impl Attempt {
    /// `out` receives one JSON [`WorkerEvent`] per line; `stop` is set to have the attempt
    /// suspended.
    pub fn new(job: Job, out: Box<dyn Write + Send>, stop: Arc<AtomicBool>) -> Self {
        let log = |name| StepLog::new(job.work_dir.join(name));
        let (metrics, times) = (log(METRICS), log(TIMES));
        Self {
            job,
            rank: 0,
            stop,
            results: Mutex::default(),
            shown: Mutex::default(),
            resumed: Mutex::default(),
            events: Mutex::new(EventWriter {
                out,
                last_progress: None,
                metrics,
                times,
                total: None,
                write_failed: false,
            }),
        }
    }
    /// The same as this rank of it.
    #[must_use]
    pub fn as_rank(mut self, rank: usize) -> Self {
        self.rank = rank;
        self
    }
    pub fn job(&self) -> &Job {
        &self.job
    }
    /// The number of this process among the [`ranks`](Self::ranks), from 0 on. Only the first one
    /// writes outputs.
    pub fn rank(&self) -> usize {
        self.rank
    }
    /// How many processes share the work.
    pub fn ranks(&self) -> usize {
        self.job.ranks
    }
    /// Parameters as the kind's own struct.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T> {
        parse(&self.job.params)
    }
    /// Operation values as the kind's own struct.
    pub fn operation<T: DeserializeOwned>(&self) -> Result<T> {
        parse(&self.job.operation)
    }
    /// Path of the artifact in a required slot.
    pub fn input(&self, slot: &str) -> Result<&Path> {
        self.optional_input(slot).ok_or_else(|| Error::stage(format!("input `{slot}` is not connected")))
    }
    /// Path of the artifact in an optional slot.
    pub fn optional_input(&self, slot: &str) -> Option<&Path> {
        self.job.inputs.get(slot).map(PathBuf::as_path)
    }
    /// Paths of the artifacts in a list slot, in the order of the pipeline.
    pub fn inputs(&self, slot: &str) -> Vec<&Path> {
        (0..).map_while(|i| self.optional_input(&element(slot, i))).collect()
    }
    /// The folder of an output, created empty at the start of each attempt.
    pub fn output(&self, name: &str) -> PathBuf {
        self.job.output(name)
    }
    /// A folder that is kept until the stage succeeds, whatever kills the attempt.
    pub fn checkpoint_dir(&self) -> PathBuf {
        self.job.checkpoint_dir()
    }
    /// The folder for pictures of work in progress. Not part of any output; moved to the logs when
    /// the stage succeeds.
    pub fn pictures_dir(&self) -> PathBuf {
        self.job.work_dir.join(PICTURES)
    }
    /// The folder of published files, shared by all stages and never removed.
    pub fn downloads(&self) -> &Path {
        &self.job.downloads
    }
    pub fn device(&self) -> &str {
        &self.job.device
    }
    /// Reports that the attempt begins.
    pub(crate) fn started(&self) {
        self.say(&WorkerEvent::Started);
    }
    /// Reports `done` of `total` units (steps, images). May be called often; events are throttled.
    pub fn progress(&self, done: u64, total: u64) {
        if self.rank > 0 {
            return;
        }
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let due = events.last_progress.is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL);
        if due || done >= total {
            events.last_progress = Some(Instant::now());
            events.say(&WorkerEvent::Progress { done, total });
        }
        events.total = Some(total);
        events.note(|metrics, times| metrics.reach(done).and_then(|()| times.reach(done)));
    }
    /// Logs a value of a curve, for the step log and bars. It must be reproducible: anything that
    /// depends on the clock is a [`time`](Self::time).
    pub fn metric(&self, step: u64, name: &str, value: f64) {
        let value = finite(value);
        self.say(&WorkerEvent::Metric { step, name: name.into(), value });
        self.note(|metrics, _| metrics.add(step, name, value));
    }
    /// Logs a rate or a duration of a step, such as steps per second.
    pub fn time(&self, step: u64, name: &str, value: f64) {
        let value = finite(value);
        self.say(&WorkerEvent::Metric { step, name: name.into(), value });
        self.note(|_, times| times.add(step, name, value));
    }
    /// Reports a result of the stage; the first one is the key metric in tables.
    pub fn result(&self, name: &str, value: f64) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.insert(name.into(), finite(value).into());
    }
    /// The names of all results so far.
    pub fn result_names(&self) -> Vec<String> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
    /// Writes the results to [`RESULTS`], where the runner reads them when the attempt has
    /// succeeded.
    pub fn write_results(&self) -> Result<()> {
        if self.rank > 0 {
            return Ok(());
        }
        let path = self.job.work_dir.join(RESULTS);
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || std::fs::write(&path, serde_json::to_vec_pretty(&*results)?);
        write().map_err(|e| Error::io("write", &path, e))
    }
    /// Names a file inside output `output` to show to the user at the end of the run (a picture).
    pub fn show(&self, output: &str, file: &str) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).push((output.into(), file.into()));
    }
    /// What was shown so far: (output, file).
    pub fn shown(&self) -> Vec<(String, String)> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub fn log(&self, text: &str) {
        self.say(&WorkerEvent::Log { text: text.into() });
    }
    /// Call before writing a checkpoint: the step log must never fall behind it.
    pub fn checkpointing(&self) {
        self.note(|metrics, times| metrics.sync().and_then(|()| times.flush()));
    }
    /// Reports a checkpoint written at this step.
    pub fn checkpointed(&self, step: u64) {
        if self.rank > 0 {
            return;
        }
        let of = self.events.lock().unwrap_or_else(PoisonError::into_inner).total;
        progress::note(&self.job.work_dir, Reached { step, of });
        self.say(&WorkerEvent::Checkpoint { step });
    }
    /// Reports that the attempt resumed from a checkpoint of an earlier attempt.
    pub fn resumed(&self, step: u64) {
        *self.resumed.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
        self.say(&WorkerEvent::Resumed { step });
        self.note(|metrics, times| metrics.resume(step).and_then(|()| times.resume(step)));
    }
    /// The step at which the attempt resumed.
    pub fn resumed_at(&self) -> Option<u64> {
        *self.resumed.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// A stop was requested (Ctrl-C, SIGTERM): write a checkpoint and return [`Error::suspended`].
    pub fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
    pub(crate) fn say(&self, event: &WorkerEvent) {
        // What a runner would write to the log.
        if let (true, WorkerEvent::Log { text }) = (self.job.detached || self.rank > 0, event) {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).say(event);
    }
    fn note(&self, write: impl FnOnce(&mut StepLog, &mut StepLog) -> std::io::Result<()>) {
        if self.rank > 0 {
            return;
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).note(write);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.note(|metrics, times| metrics.flush().and_then(|()| times.flush()));
    }
}

impl EventWriter {
    fn note(&mut self, write: impl FnOnce(&mut StepLog, &mut StepLog) -> std::io::Result<()>) {
        if self.write_failed {
            return;
        }
        if let Err(e) = write(&mut self.metrics, &mut self.times) {
            self.write_failed = true;
            self.say(&WorkerEvent::Log { text: format!("cannot write the metrics file: {e}") });
        }
    }
    /// Ignores a runner that no longer listens: the worker ends by other means.
    fn say(&mut self, event: &WorkerEvent) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let _ = self.out.write_all(&line).and_then(|()| self.out.flush());
    }
}

/// JSON has no NaN and no infinity; they are written as null.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn events(tell: impl Fn(&Attempt)) -> Vec<WorkerEvent> {
        let said = Shared::default();
        let job = serde_json::json!({"stage": "s", "kind": "k", "key": "", "params": {}, "operation": {}, "inputs": {},
            "outputs": {}, "work_dir": "/w", "threads": 1, "device": "cpu"});
        let job = serde_json::from_value(job).unwrap();
        tell(&Attempt::new(job, Box::new(said.clone()), Arc::default()));
        let text = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn numbers_reach_the_worker_to_the_last_bit() {
        let job = serde_json::json!({"stage": "s", "kind": "k", "key": "", "params": {}, "operation": {}, "inputs": {},
            "outputs": {}, "work_dir": "/w", "threads": 1, "device": "cpu"});
        let mut job: Job = serde_json::from_value(job).unwrap();
        // Seventeen digits and large exponents are where fast decimal parsers fail.
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        let mut numbers = vec![0.1, 1e-30, 5e-324, f64::MAX, 0.1 + 0.2, 2.0];
        for _ in 0..1000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            numbers.extend(Some(f64::from_bits(bits)).filter(|x| x.is_finite()));
        }
        job.params.insert("many".into(), serde_json::json!(numbers));
        job.params.insert("one".into(), serde_json::json!(0.123_456_789_012_345_68));
        job.params.insert("whole".into(), serde_json::json!(7));
        job.operation.insert("word".into(), serde_json::json!("f64"));
        let back: Job = serde_json::from_slice(&serde_json::to_vec(&job).unwrap()).unwrap();
        assert_eq!((&back.params, &back.operation), (&job.params, &job.operation));
    }

    #[test]
    fn progress_is_throttled_but_the_end_is_always_told() {
        let told = events(|a| (0..=10_000).for_each(|i| a.progress(i, 10_000)));
        assert!(told.len() < 1000, "{} events", told.len());
        assert_eq!(told.first(), Some(&WorkerEvent::Progress { done: 0, total: 10_000 }));
        assert_eq!(told.last(), Some(&WorkerEvent::Progress { done: 10_000, total: 10_000 }));
    }

    #[test]
    fn a_metrics_file_that_cannot_be_written_is_told_of_once() {
        let told = events(|a| (1..4).for_each(|step| a.metric(step, "loss", 1.0)));
        let logs: Vec<_> = told.iter().filter(|e| matches!(e, WorkerEvent::Log { .. })).collect();
        let text = "cannot write the metrics file: No such file or directory (os error 2)".to_string();
        assert_eq!(logs, [&WorkerEvent::Log { text }]);
        assert_eq!(told.len(), 4, "the events are told all the same");
    }

    #[test]
    fn a_value_that_is_not_a_number_survives_as_null() {
        let told = events(|a| a.metric(1, "loss", f64::NAN));
        assert_eq!(told[0], WorkerEvent::Metric { step: 1, name: "loss".into(), value: None });
    }
}
