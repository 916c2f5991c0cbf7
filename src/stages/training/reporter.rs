//! Passes the reports of a training loop on to the attempt, and to TensorBoard files if asked for.
//! It measures the pace between two reports, and the share of time spent waiting for data, which
//! the loop does not see.

use super::settings::LoopSettings;
use erw_base::error::{Error, Result};
use erw_ml::formats::tfevents::EventFile;
use erw_ml::observer::Observer;
use erw_runner::kind::attempt::Attempt;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Digits of the key in the name of a TensorBoard run.
const DIGITS: usize = 8;

/// The observer of a training loop that runs in a stage.
pub struct Reporter<'a> {
    attempt: &'a Attempt,
    board: RefCell<Option<EventFile>>,
    /// Samples per step; 0 if they are not counted.
    samples: usize,
    /// Time spent waiting for batches.
    waited: Cell<Duration>,
    /// The step at which the loop began, then the step reported last.
    last: Cell<Mark>,
    now: Cell<Mark>,
}

/// A moment in the loop.
#[derive(Clone, Copy)]
struct Mark {
    /// Steps done.
    step: u64,
    at: Instant,
    waited: Duration,
}

impl Mark {
    fn new(step: u64) -> Self {
        Self { step, at: Instant::now(), waited: Duration::ZERO }
    }
}

impl<'a> Reporter<'a> {
    /// # Errors
    /// When the TensorBoard folder cannot be created.
    pub fn new(attempt: &'a Attempt, samples: usize) -> Result<Self> {
        let LoopSettings { tensorboard, .. } = attempt.operation()?;
        let board = tensorboard.map(|dir| open(attempt, &attempt.job().pipeline_dir.join(dir))).transpose()?;
        Ok(Self {
            attempt,
            board: RefCell::new(board),
            samples,
            waited: Cell::default(),
            last: Cell::new(Mark::new(0)),
            now: Cell::new(Mark::new(0)),
        })
    }

    /// Reports steps and samples per second since the last report, and the share of that time spent
    /// waiting for data. The first report includes the setup.
    fn pace(&self, step: u64) {
        let (last, now) = (self.last.get(), self.now.get());
        if now.step != step || last.step >= step {
            return;
        }
        self.last.set(now);
        let seconds = now.at.duration_since(last.at).as_secs_f64();
        if seconds > 0.0 {
            let rate = (step - last.step) as f64 / seconds;
            self.time(step, "steps_per_s", rate);
            if self.samples > 0 {
                self.time(step, "samples_per_s", rate * self.samples as f64);
            }
            self.time(step, "data_wait", (now.waited - last.waited).as_secs_f64() / seconds);
        }
    }

    fn time(&self, step: u64, name: &str, value: f64) {
        self.attempt.time(step, name, value);
        self.draw(|board| board.scalar(step, name, value as f32));
    }

    /// Writes to TensorBoard. A write error must not end a training: it is logged once, and writing
    /// stops.
    fn draw(&self, draw: impl FnOnce(&mut EventFile) -> std::io::Result<()>) {
        let mut board = self.board.borrow_mut();
        if let Some(Err(e)) = board.as_mut().map(draw) {
            *board = None;
            self.attempt.log(&format!("stopped writing for TensorBoard: {e}"));
        }
    }
}

/// Opens the event file of an action, in a folder named after the stage and its key.
fn open(attempt: &Attempt, dir: &std::path::Path) -> Result<EventFile> {
    let job = attempt.job();
    let name = format!("{}-{}", job.stage, job.key.chars().take(DIGITS).collect::<String>());
    let folder: PathBuf = dir.join(name.replace('/', "_"));
    let file = EventFile::create(&folder).map_err(|e| Error::io("make", &folder, e))?;
    attempt.log(&format!("to watch: tensorboard --logdir {}", dir.display()));
    Ok(file)
}

impl Observer for Reporter<'_> {
    fn progress(&self, done: u64, total: u64) {
        self.now.set(Mark { step: done, at: Instant::now(), waited: self.waited.get() });
        self.attempt.progress(done, total);
    }
    fn metric(&self, step: u64, name: &str, value: f64) {
        self.pace(step);
        self.attempt.metric(step, name, value);
        self.draw(|board| board.scalar(step, name, value as f32));
    }
    fn checkpointing(&self) {
        self.attempt.checkpointing();
    }
    fn checkpointed(&self, step: u64) {
        self.attempt.checkpointed(step);
    }
    fn resumed(&self, step: u64) {
        self.last.set(Mark::new(step));
        self.attempt.resumed(step);
        self.draw(|board| board.resume(step));
    }
    fn waited(&self, time: Duration) {
        self.waited.set(self.waited.get() + time);
    }
    fn log(&self, text: &str) {
        self.attempt.log(text);
    }
    fn should_stop(&self) -> bool {
        self.attempt.should_stop()
    }
}
