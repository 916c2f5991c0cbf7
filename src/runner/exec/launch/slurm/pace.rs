//! Times that settings may state, where none does: see `runner::settings`.

use std::time::Duration;

/// The longest time between two questions to the scheduler.
pub(super) const POLL: Duration = Duration::from_secs(30);
/// How long a file of a node may take to be seen.
pub(super) const LATENCY: Duration = Duration::from_secs(60);
/// Time before its limit at which a job is asked to stop.
pub(super) const GRACE: Duration = Duration::from_secs(300);
