//! Times: those that settings may state, where none does (see `runner::settings`), and how often files
//! are looked at.

use std::time::Duration;

/// The longest time between two questions to the scheduler.
pub(super) const POLL: Duration = Duration::from_secs(30);
/// How long a file of a node may take to be seen.
pub(super) const LATENCY: Duration = Duration::from_secs(60);
/// Time before its limit at which a job is asked to stop.
pub(super) const GRACE: Duration = Duration::from_secs(300);
/// How often files of a job are looked at while something happens.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// The longest time between two looks: a thousand quiet jobs are some hundred lookups a second.
pub(super) const QUIET: Duration = Duration::from_secs(4);
