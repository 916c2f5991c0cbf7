//! `--detach`: submits this very command as a job that runs the stages as further jobs. What can be
//! refused now is, so that it is read here and not in a log.

use super::flags::Flags;
use crate::common::print;
use crate::plan::jobs::check_stages;
use erw_base::error::{Error, Result};
use erw_report::table::near;
use erw_runner::cache::store::Store;
use erw_runner::exec::launch::slurm::runner_job;
use erw_runner::exec::worker_program::WorkerProgram;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::plan;
use erw_runner::settings::LauncherName;
use std::ffi::OsString;
use std::path::Path;

const FLAG: &str = "--detach";

pub fn submit(pipeline: &Pipeline, selected: &[StageId], flags: &Flags, cache: &Path) -> Result<()> {
    if flags.settings.launcher == LauncherName::Local {
        return Err(Error::usage(format!("`{FLAG}` submits a job, and the launcher is `local`"))
            .hint("pass `--launcher slurm`, or choose a profile that says so")
            .hint("on one machine, a run goes on in the background with `nohup erw run … &`, tmux or screen"));
    }
    let stages = || selected.iter().map(|id| pipeline.stage(*id));
    if let Some(error) = plan::missing_error(&plan::all_missing(stages())).filter(|_| !flags.keep_going) {
        return Err(error);
    }
    check_stages(stages(), &flags.settings)?;
    let store = Store::open_to_write(cache)?;
    let here = std::env::current_dir().map_err(|e| Error::usage("cannot find the current folder").because(e))?;
    let job = runner_job::submit(&store, &flags.settings, pipeline, (&command()?, FLAG), &here)?;
    print(&format!("job {} runs it; its log is {}\n", job.id, near(&job.log)))
}

/// This command.
fn command() -> Result<Vec<OsString>> {
    let mut words = vec![WorkerProgram::this()?.program.into_os_string()];
    words.extend(std::env::args_os().skip(1));
    Ok(words)
}
