//! The stage kinds this program knows.

use crate::runner::manifest::Registry;

/// All of them.
pub const KINDS: Registry = &[];
