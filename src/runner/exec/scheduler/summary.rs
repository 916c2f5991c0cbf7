//! Summarises a run: one error for everything that happened.

use crate::event::{StageEnd, StageState};
use erw_base::error::{Error, ErrorKind};

/// The error of a run. A signal takes precedence over a failure, a failure over a suspension.
pub(super) fn summarise(ends: &[StageEnd], signal: Option<i32>) -> Option<Error> {
    let in_state = |state| ends.iter().filter(move |e| e.state == state);
    if let Some(signal) = signal {
        let name = if signal == libc::SIGINT { "interrupted" } else { "terminated" };
        let error = Error::new(ErrorKind::Signal(signal), name);
        let suspended =
            in_state(StageState::Suspended).filter_map(|e| Some(format!("`{}` {}", e.stage, e.left.as_ref()?)));
        let suspended: Vec<String> = suspended.collect();
        return Some(error.hint(match suspended.is_empty() {
            true => "rerun to continue; finished stages are cached".into(),
            false => format!("rerun to continue: {}; finished stages are cached", suspended.join(", ")),
        }));
    }
    let mut failed = in_state(StageState::Failed);
    if let Some(first) = failed.next() {
        let failure = first.error.clone().unwrap_or_default();
        let of = format!("stage `{}`: ", first.stage);
        let message = failure.message.strip_prefix(&of).unwrap_or(&failure.message);
        let mut error = Error::stage(format!("{of}{message}"));
        error.causes = failure.causes;
        error.hints = failure.hints;
        error.place = failure.place;
        if let Some(log) = failure.log {
            error.hints.push(format!("its log is `{}`", log.display()));
        }
        let others: Vec<String> = failed.map(|e| format!("`{}`", e.stage)).collect();
        return Some(if others.is_empty() { error } else { error.hint(format!("also failed: {}", others.join(", "))) });
    }
    in_state(StageState::Suspended).next().map(|e| {
        let next = e.left.as_ref().map_or_else(|| "rerun to resume".into(), |left| format!("a rerun {left}"));
        Error::new(ErrorKind::Suspended, format!("stage `{}`: suspended; {next}", e.stage))
    })
}
