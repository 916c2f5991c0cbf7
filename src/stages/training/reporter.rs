//! What a training loop tells, passed on to the attempt, and to TensorBoard where its files are asked for. The pace between
//! two reports is measured here, with the share of waiting for data, which the loop does not see.

use super::settings::LoopSettings;
use erw_base::error::{Error, Result};
use erw_ml::formats::tfevents::EventFile;
use erw_ml::observer::Observer;
use erw_runner::kind::attempt::Attempt;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Digits of a key that tell one training from another in a list of TensorBoard's.
const DIGITS: usize = 8;

pub struct Reporter<'a> {
    attempt: &'a Attempt,
    board: RefCell<Option<EventFile>>,
    /// In a step; 0 where they are not counted.
    samples: usize,
    /// Time spent waiting for batches.
    waited: Cell<Duration>,
    /// Where the loop began, then the step that was reported last.
    last: Cell<Mark>,
    now: Cell<Mark>,
}

/// A moment of the loop.
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
    /// A folder for TensorBoard that cannot be made.
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

    /// Steps and samples per second since the step that was reported last, and the share of that time spent waiting for data. What is
    /// done once at the start is in the first of them.
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

    /// A curve that cannot be drawn any more is no reason to lose a training.
    fn draw(&self, draw: impl FnOnce(&mut EventFile) -> std::io::Result<()>) {
        let mut board = self.board.borrow_mut();
        if let Some(Err(e)) = board.as_mut().map(draw) {
            *board = None;
            self.attempt.log(&format!("cannot write for TensorBoard any more: {e}"));
        }
    }
}

/// The event file of an action, in a folder that says which it is.
fn open(attempt: &Attempt, dir: &std::path::Path) -> Result<EventFile> {
    let job = attempt.job();
    let name = format!("{}-{}", job.stage, job.key.chars().take(DIGITS).collect::<String>());
    let folder: PathBuf = dir.join(name.replace('/', "_"));
    let file = EventFile::create(&folder).map_err(|e| Error::io("make", &folder, e))?;
    attempt.log(&format!("to look on: tensorboard --logdir {}", dir.display()));
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
