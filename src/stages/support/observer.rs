//! Forwards progress reports of `ml` to the attempt of a stage, and tells it the part of this rank.

use erw_ml::observer::Observer;
use erw_ml::pieces::Share;
use erw_runner::kind::attempt::Attempt;

/// The part of the work that this rank of an attempt does.
pub fn share(attempt: &Attempt) -> Share {
    Share { rank: attempt.rank(), ranks: attempt.ranks() }
}

/// The observer that passes everything on to this attempt.
pub struct AttemptObserver<'a>(pub &'a Attempt);

impl Observer for AttemptObserver<'_> {
    fn progress(&self, done: u64, total: u64) {
        self.0.progress(done, total);
    }
    fn metric(&self, step: u64, name: &str, value: f64) {
        self.0.metric(step, name, value);
    }
    fn checkpointing(&self) {
        self.0.checkpointing();
    }
    fn checkpointed(&self, step: u64) {
        self.0.checkpointed(step);
    }
    fn resumed(&self, step: u64) {
        self.0.resumed(step);
    }
    fn log(&self, text: &str) {
        self.0.log(text);
    }
    fn should_stop(&self) -> bool {
        self.0.should_stop()
    }
}
