//! One file per subcommand: arguments in, calls out.

pub mod common;
pub mod completions;
pub mod explain;
pub mod graph;
pub mod schema;
pub mod stages;
