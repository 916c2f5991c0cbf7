//! The sum of a run: one error out of all that happened.

use crate::event::{StageEnd, State};
use erw_base::error::{Error, ErrorKind};

/// The error a run ends with: a signal over a failure over a suspension.
pub(super) fn sum(ends: &[StageEnd], signal: Option<i32>) -> Option<Error> {
    let in_state = |state| ends.iter().filter(move |e| e.state == state);
    if let Some(signal) = signal {
        let name = if signal == libc::SIGINT { "interrupted" } else { "terminated" };
        let error = Error::new(ErrorKind::Signal(signal), name);
        let suspended = in_state(State::Suspended).filter_map(|e| Some(format!("`{}` {}", e.stage, e.left.as_ref()?)));
        let suspended: Vec<String> = suspended.collect();
        return Some(error.hint(match suspended.is_empty() {
            true => "run again to go on; finished stages are cached".into(),
            false => format!("run again: {}; finished stages are cached", suspended.join(", ")),
        }));
    }
    let mut failed = in_state(State::Failed);
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
    in_state(State::Suspended).next().map(|e| {
        let how = e.left.as_ref().map_or_else(String::new, |left| format!(", it {left}"));
        Error::new(ErrorKind::Suspended, format!("stage `{}`: stopped before the end; run again{how}", e.stage))
    })
}
