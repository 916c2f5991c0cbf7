//! Events as JSON lines on standard output.

use erw_runner::event::{Event, Listener};
use std::io::Write;

#[derive(Debug, Default)]
pub struct Json {
    /// The reader is gone; the run continues.
    write_failed: bool,
}

impl Listener for Json {
    fn event(&mut self, event: &Event) {
        if self.write_failed {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        self.write_failed = out.write_all(&line).and_then(|()| out.flush()).is_err();
    }
}
