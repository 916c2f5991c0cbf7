//! Texts: TOML with its places ([`spanned`]), sizes and durations ([`units`]), names that were meant ([`suggest`]), paths as
//! text ([`path_text`]), lines of logs ([`log_lines`]).

pub mod log_lines;
pub mod path_text;
pub mod spanned;
pub mod suggest;
pub mod units;
