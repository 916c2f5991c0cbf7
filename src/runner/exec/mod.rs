//! Executes a plan: stale stages run within the available resources.
//!
//! [`scheduler`] checks and starts stages as their inputs become known, within what [`resources`]
//! allocate. [`executor`] executes one action under the lock of its key: outputs published, record
//! written last. Its attempts are executed by a [`launch`]er, which returns an [`attempt_report`].
//! A kind runs in a process of its own, [`worker`]; [`command`] runs a user's program instead,
//! whose results [`metrics_json`] reads. Both verify inputs ([`tamper`]) and digest outputs
//! ([`artifacts`]). [`spawn`] starts any process, [`processes`] and [`watchdog`] make sure that none
//! is left behind, [`process_exit`] describes how one ended, [`unstartable`] why one did not start.
//! [`stop_token`] holds signals to stop, [`stop_request`] requests by files.
//! [`up_to_date`] answers a run that would find everything cached, and most of one that would not.

pub mod artifacts;
pub mod attempt_report;
pub mod command;
pub mod environment;
pub mod executor;
pub mod launch;
pub mod metrics_json;
pub mod process_exit;
pub mod processes;
pub mod rank_count;
pub mod rendezvous;
pub mod resources;
pub mod scheduler;
pub mod spawn;
pub mod stop_request;
pub mod stop_token;
pub mod tamper;
pub mod unstartable;
pub mod up_to_date;
pub mod watchdog;
pub mod worker;
pub mod worker_program;
