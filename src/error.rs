//! The one error type of the runner, the stages and the command line.
//!
//! An [`Error`] carries what a user needs in the order they read it: cause, place (file:line with the
//! source excerpt), the chain of underlying causes, hints. Nothing else in the program formats errors;
//! `ml` has candle's own error type, which the stages convert at the joint.

use std::fmt;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong in the terms of the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A stage failed while running. Exit code 1.
    Stage,
    /// A bad pipeline, a bad argument, an unusable environment. Exit code 2.
    Usage,
    /// The work was put down before its end (a stop was asked for) and will resume. Exit code 3.
    Suspended,
    /// Stored artifacts or records are damaged. Exit code 4.
    Damaged,
    /// Stopped by SIGINT (130) or SIGTERM (143).
    Signal(i32),
    /// A mistake in the program itself, such as a manifest that does not parse. Exit code 70, as in sysexits.h.
    Internal,
}

/// A span of a text file, for the excerpt under an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the user named it.
    pub file: PathBuf,
    /// The file's whole text, to print the line from.
    pub text: std::sync::Arc<str>,
    /// Byte range in `text`.
    pub span: std::ops::Range<usize>,
}

impl Place {
    /// 1-based line and column of the start of the span.
    pub fn line_col(&self) -> (usize, usize) {
        let before = self.text.get(..self.span.start).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let col = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        (line, col)
    }
}

/// `file:line`, as compilers print it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line_col().0)
    }
}

#[derive(Debug, Clone)]
pub struct Error {
    pub kind: ErrorKind,
    /// Lower case, backticks around user names, no full stop.
    pub message: String,
    /// Boxed, so that a `Result` stays small.
    pub place: Option<Box<Place>>,
    /// Underlying causes, outermost first.
    pub causes: Vec<String>,
    pub hints: Vec<String>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), place: None, causes: vec![], hints: vec![] }
    }
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }
    pub fn stage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Stage, message)
    }
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
    pub fn suspended() -> Self {
        Self::new(ErrorKind::Suspended, "stopped before the end; run again to resume")
    }
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert_with(|| Box::new(place));
        self
    }
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
    /// [`Error::hint`], when there is one.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hints.extend(hint);
        self
    }
    /// [`Error::at`], when the place is known.
    #[must_use]
    pub fn maybe_at(self, place: Option<Place>) -> Self {
        match place {
            Some(place) => self.at(place),
            None => self,
        }
    }
    /// Says in front of the message where it belongs: "`what`: message".
    #[must_use]
    pub fn within(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
    /// Puts `message` in front; what was the message becomes the first cause.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let old = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, old);
        self
    }
    /// An I/O error with what was being done and to which file.
    pub fn io(doing: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::usage(format!("cannot {doing} `{}`", path.display())).because(source)
    }
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }
    pub fn exit_code(&self) -> i32 {
        match self.kind {
            ErrorKind::Stage => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Suspended => 3,
            ErrorKind::Damaged => 4,
            ErrorKind::Signal(n) => 128 + n,
            ErrorKind::Internal => 70,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|c| write!(f, ": {c}"))
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    /// Without the backtraces that candle writes into its texts; contexts and paths come first, what they are about is
    /// the cause.
    fn from(e: candle_core::Error) -> Self {
        use candle_core::Error as E;
        match e {
            E::WithBacktrace { inner, .. } => Self::from(*inner),
            E::Context { inner, context } => Self::from(*inner).context(context.to_string()),
            E::WithPath { inner, path } => Self::from(*inner).context(format!("cannot use `{}`", path.display())),
            other => Self::stage(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_candle_lose_their_wrapping() {
        let inner = candle_core::Error::Msg("shape mismatch".into());
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let wrapped = candle_core::Error::WithBacktrace { inner: Box::new(inner), backtrace };
        let error = Error::from(wrapped.context("cannot use x"));
        assert_eq!((error.message.as_str(), error.causes), ("cannot use x", vec!["shape mismatch".to_string()]));
    }
}
