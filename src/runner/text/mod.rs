//! Text: TOML with places ([`spanned`]), sizes and durations ([`units`]), suggestions for misspelt
//! names ([`suggest`]), paths as text ([`path_text`]), lines of logs ([`log_lines`]), words
//! for a shell ([`shell`]). Knows nothing of pipelines.

pub mod log_lines;
pub mod path_text;
pub mod shell;
pub mod spanned;
pub mod suggest;
pub mod units;
