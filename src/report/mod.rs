//! How things look. With `cli` the only code that prints.

pub mod diagnostic;
