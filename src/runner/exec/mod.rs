//! From a plan to artifacts: what is stale is run, within the resources there are.
//!
//! [`scheduler`] checks and starts stages as their inputs become known, within what [`resources`] allocate. [`executor`]
//! carries one action out under the lock of its key: inputs verified ([`tamper`]), outputs digested and published, record
//! last. A kind runs in a process of its own: [`launch`] starts it, [`worker`] is what it does, and [`command`] runs a
//! program of the user's in its place, whose results [`metrics_json`] reads. [`spawn`] is how any process starts,
//! [`processes`] and [`watchdog`] see to it that none is left, [`process_exit`] says how one ended, [`unstartable`] why
//! one did not start. [`up_to_date`] answers a run that would find everything cached.

pub mod command;
pub mod environment;
pub mod executor;
pub mod launch;
pub mod launcher;
pub mod metrics_json;
pub mod process_exit;
pub mod processes;
pub mod resources;
pub mod scheduler;
pub mod spawn;
pub mod stop_token;
pub mod tamper;
pub mod unstartable;
pub mod up_to_date;
pub mod watchdog;
pub mod worker;
