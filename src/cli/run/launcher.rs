//! How the stages of a run are started, by the settings: on this machine, or as jobs of a cluster.

use erw_base::error::{Error, Result};
use erw_runner::exec::launch::Launcher;
use erw_runner::exec::launch::local::Local;
use erw_runner::exec::launch::slurm::Slurm;
use erw_runner::exec::launch::slurm::settings::SlurmSettings;
use erw_runner::exec::resources::Limits;
use erw_runner::exec::worker_program::WorkerProgram;
use erw_runner::text::units::duration;

/// The launcher of a run; adapts its limits.
pub fn launcher(limits: &mut Limits) -> Result<Box<dyn Launcher>> {
    let worker = WorkerProgram::this()?;
    if std::env::var("ERW_LAUNCHER").as_deref() != Ok("slurm") {
        return Ok(Box::new(Local { worker }));
    }
    let mut s = SlurmSettings::default();
    let time = |name: &str, old| std::env::var(name).ok().and_then(|t| duration(&t)).unwrap_or(old);
    s.poll = time("ERW_POLL", s.poll);
    s.latency = time("ERW_LATENCY", s.latency);
    s.grace = time("ERW_GRACE", s.grace);
    s.partition = std::env::var("ERW_PARTITION").ok();
    s.setup = std::env::var("ERW_SETUP").into_iter().collect();
    limits.jobs = s.max_jobs;
    limits.elsewhere = Some(s.threads);
    let _ = Error::usage("");
    Ok(Box::new(Slurm::new(s, worker)))
}
