//! Executes a plan: stale stages run within the available resources.
//!
//! [`scheduler`] checks and starts stages as their inputs become known, within what [`resources`]
//! allocate. [`executor`] executes one action under the lock of its key: inputs verified
//! ([`tamper`]), outputs digested and published, record written last. A kind runs in its own
//! process: [`launch`] starts it, [`worker`] is its main function. [`command`] runs a user's
//! program instead, whose results [`metrics_json`] reads. [`spawn`] starts any process,
//! [`processes`] and [`watchdog`] make sure that none is left behind, [`process_exit`] describes
//! how one ended, [`unstartable`] why one did not start. [`up_to_date`] answers a run that would
//! find everything cached.

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
