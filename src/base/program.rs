//! Runs another program with a time limit: one that hangs, in a driver or for a server that is away,
//! must not take this one with it. Does not know what is asked.

use crate::limits;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a program said.
#[derive(Debug)]
pub struct Answer {
    pub status: ExitStatus,
    /// Its output, trimmed.
    pub output: String,
    /// Its complaints, trimmed.
    pub complaint: String,
}

/// Starts the program and waits for its end; `None` if that takes longer than `limit`. Then it is
/// killed.
///
/// # Errors
/// It cannot be started.
pub fn ask(command: &mut Command, limit: Duration) -> io::Result<Option<Answer>> {
    // Files, because nobody reads a pipe meanwhile.
    let (mut output, mut complaint) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(complaint.try_clone()?);
    let mut child = command.spawn()?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(Answer { status, output: text(&mut output), complaint: text(&mut complaint) }));
        }
        if began.elapsed() > limit {
            let _ = child.kill();
            // What hangs in a driver does not die: another thread waits for it.
            let _ = limits::spawn("end of a program", move || child.wait());
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = vec![];
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim().to_string()
}
