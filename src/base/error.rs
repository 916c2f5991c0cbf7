//! The error type of the runner, the stages and the command line.
//!
//! An [`Error`] carries what a user needs, in reading order: message, place (file:line with a
//! source excerpt), the chain of causes, hints. Formatting happens in `report` alone. `ml` uses
//! candle's error type, which the stages convert.

use crate::limits;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The category of an error. It decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A stage failed while running. Exit code 1.
    Stage,
    /// A bad pipeline, a bad argument, an unusable environment. Exit code 2.
    Usage,
    /// The work was suspended because a stop was requested; a rerun resumes it. Exit code 3.
    Suspended,
    /// Stored artifacts or records are damaged. Exit code 4.
    Damaged,
    /// Stopped by SIGINT (130) or SIGTERM (143).
    Signal(i32),
    /// A bug in the program itself, such as a manifest that does not parse. Exit code 70, as in
    /// sysexits.h.
    Internal,
}

impl ErrorKind {
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Stage => 1,
            Self::Usage => 2,
            Self::Suspended => 3,
            Self::Damaged => 4,
            Self::Signal(n) => 128 + n,
            Self::Internal => 70,
        }
    }
}

/// The text of a file as it was read. Every value of a pipeline points into it.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    /// As the user named it.
    pub file: PathBuf,
    pub text: String,
    /// Byte offsets of the line starts, as in [`Place`].
    starts: Vec<u32>,
}

impl Text {
    pub fn new(file: &Path, text: impl Into<String>) -> Arc<Self> {
        let text = text.into();
        let ends = text.match_indices('\n').map_while(|(at, _)| u32::try_from(at + 1).ok());
        let starts = std::iter::once(0).chain(ends).collect();
        Arc::new(Self { file: file.into(), text, starts })
    }

    /// The 0-based line that contains this byte.
    pub fn line_at(&self, byte: usize) -> usize {
        self.starts.partition_point(|start| *start as usize <= byte).saturating_sub(1)
    }

    /// The byte range of the 0-based line `number`, without its line ending.
    pub fn line(&self, number: usize) -> Option<Range<usize>> {
        let start = *self.starts.get(number)? as usize;
        Some(start..self.starts.get(number + 1).map_or(self.text.len(), |next| *next as usize - 1))
    }
}

/// A span of a text file, for the excerpt below an error. Kept small: a large pipeline has many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub source: Arc<Text>,
    /// Byte offsets. `u32` is enough: no pipeline has 4 GiB.
    start: u32,
    end: u32,
}

impl Place {
    pub fn new(source: &Arc<Text>, span: Range<usize>) -> Self {
        let byte = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Self { source: source.clone(), start: byte(span.start), end: byte(span.end) }
    }

    /// A file as a whole, without an excerpt.
    pub fn of_file(file: &Path) -> Self {
        Self::new(&Text::new(file, ""), 0..0)
    }

    pub fn span(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// 1-based line and column of the start of the span.
    pub fn line_col(&self) -> (usize, usize) {
        let Text { text, starts, .. } = &*self.source;
        let at = text.get(..self.start as usize).unwrap_or(text).len();
        let line = self.source.line_at(at);
        (line + 1, text[starts[line] as usize..at].chars().count() + 1)
    }
}

/// `file:line`, as compilers print it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.file.display(), self.line_col().0)
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
        let message = without_backtrace(message.into());
        Self { kind, message, place: None, causes: vec![], hints: vec![] }
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
        Self::new(ErrorKind::Suspended, "suspended; rerun to resume")
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
    /// [`Error::hint`] if there is one.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hints.extend(hint);
        self
    }
    /// [`Error::at`] if the place is known.
    #[must_use]
    pub fn maybe_at(self, place: Option<Place>) -> Self {
        match place {
            Some(place) => self.at(place),
            None => self,
        }
    }
    /// Prefixes the message with the thing it concerns: "`what`: message".
    #[must_use]
    pub fn within(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
    /// Puts `message` in front. The old message becomes the first cause.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let old = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, old);
        self
    }
    /// An I/O error: the operation and the file.
    pub fn io(doing: &str, path: &Path, source: std::io::Error) -> Self {
        Self::usage(format!("cannot {doing} `{}`", path.display())).caused(source)
    }
    /// Adds the system's message as a cause and, where a resource limit explains it, that limit.
    #[must_use]
    pub fn caused(self, source: std::io::Error) -> Self {
        let limit = limits::hint(&source);
        self.because(source).maybe_hint(limit)
    }
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(without_backtrace(cause.to_string()));
        self
    }
    pub fn exit_code(&self) -> i32 {
        self.kind.exit_code()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|c| write!(f, ": {c}"))
    }
}

impl std::error::Error for Error {}

#[cfg(feature = "candle")]
impl From<candle_core::Error> for Error {
    /// Drops the backtraces that candle writes into its messages. Contexts and paths come first,
    /// the root error becomes the cause.
    fn from(e: candle_core::Error) -> Self {
        use candle_core::Error as E;
        match e {
            E::WithBacktrace { inner, .. } => Self::from(*inner),
            E::Context { inner, context } => Self::from(*inner).context(context.to_string()),
            E::Io(source) => {
                let limit = limits::hint(&source);
                Self::stage(source.to_string()).maybe_hint(limit)
            }
            E::WithPath { inner, path } => Self::from(*inner).context(format!("cannot use `{}`", path.display())),
            other => Self::stage(other.to_string()),
        }
    }
}

/// The innermost cause of a library's error, which says most: a refused connection, an unknown
/// host, a status, a timeout.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Removes the backtrace that candle puts into an error's text when RUST_BACKTRACE is set, also
/// where that text is part of another error. Otherwise a message about a truncated file has fifty
/// lines.
fn without_backtrace(text: String) -> String {
    let is_frame = |line: &str| {
        let line = line.trim_start();
        let name = line.trim_start_matches(|c: char| c.is_ascii_digit());
        line.starts_with("at ") || (name.len() < line.len() && name.starts_with(": "))
    };
    let Some((head, frames)) = text.split_once("\n   0: ") else { return text };
    let behind: Vec<&str> = frames.lines().skip(1).skip_while(|line| is_frame(line)).collect();
    [&[head], behind.as_slice()].concat().join("\n")
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

    #[test]
    fn backtraces_within_texts_are_left_out() {
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let inner = Box::new(candle_core::Error::Msg("no tensor `x`".into()));
        let wrapped = candle_core::Error::WithBacktrace { inner, backtrace };
        assert!(wrapped.to_string().lines().count() > 3, "there is one to leave out");
        let told = Error::from(candle_core::Error::Msg(format!("its weights: {wrapped}")));
        assert_eq!(told.message, "its weights: no tensor `x`");
        assert_eq!(Error::stage("no").because(format!("{wrapped}; more")).causes.len(), 1);
        assert_eq!(Error::stage("no").because(&wrapped).causes, ["no tensor `x`"]);
        assert_eq!(Error::stage("no").because("a\n 0: b\nat c").causes, ["a\n 0: b\nat c"]);
    }
}
