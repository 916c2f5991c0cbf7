//! Events as JSON lines on standard output. Where they cannot be written, the run goes on to its
//! end: whoever started it asks [`written`] then.

use erw_base::error::{Error, Result};
use erw_runner::event::{Event, Listener};
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

/// Why events were lost, if they were. A reader that is gone wants none.
static LOST: OnceLock<String> = OnceLock::new();

#[derive(Debug, Default)]
pub struct Json {
    /// The run continues.
    write_failed: bool,
}

/// # Errors
/// If events of this process could not be written to a reader that was there.
pub fn written() -> Result<()> {
    match LOST.get() {
        None => Ok(()),
        Some(cause) => Err(Error::usage("cannot write to standard output").because(cause)),
    }
}

impl Listener for Json {
    fn event(&mut self, event: &Event) {
        if self.write_failed {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        let Err(e) = out.write_all(&line).and_then(|()| out.flush()) else { return };
        self.write_failed = true;
        if e.kind() != ErrorKind::BrokenPipe && LOST.set(e.to_string()).is_ok() {
            let text = format!("warning: cannot write events to standard output: {e}\n");
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }
}
