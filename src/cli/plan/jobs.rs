//! What a plan says of where stages run: on how many ranks and, where the settings have a launcher
//! that submits jobs, what each stale stage would request, and whether the scheduler would take it.

use super::line::Planned;
use erw_base::error::Result;
use erw_runner::exec::launch::Launcher;
use erw_runner::exec::launch::slurm::{Slurm, requested};
use erw_runner::exec::rank_count::settled;
use erw_runner::exec::resources::Limits;
use erw_runner::exec::worker_program::WorkerProgram;
use erw_runner::pipeline::graph::{Pipeline, Resources, Stage};
use erw_runner::settings::{LauncherName, Settings};

/// Adds to each stale stage its number of ranks and what its job would request.
pub fn add(planned: &mut Planned, pipeline: &Pipeline, settings: &Settings) {
    let (by_name, limits) = (pipeline.by_name(), limits(settings));
    for line in planned.stages.iter_mut().filter(|line| line.stale) {
        let Some(id) = by_name.get(line.stage.as_str()) else { continue };
        let stage = pipeline.stage(*id);
        let need = need(settings, &limits, stage);
        // This build may lack what they would exchange gradients over; the stage has them all the same.
        let ranks = need.as_ref().map_or(stage.resources.ranks, |need| need.ranks);
        line.ranks = ranks.filter(|ranks| *ranks > 1);
        line.says.extend(line.ranks.map(|ranks| format!("on {ranks} ranks")));
        let (false, Ok(need)) = (settings.launcher == LauncherName::Local, need) else { continue };
        line.job = requested(settings, stage, &need, settings.gpus == Some(0));
        line.says.push(match &line.job {
            Some(options) => format!("job of Slurm: {}", options.join(" ")),
            None => "no job: runs beside `erw run`".into(),
        });
    }
}

/// Asks the scheduler whether it would take the jobs of a plan.
///
/// # Errors
/// When it would not.
pub fn check(planned: &Planned, pipeline: &Pipeline, settings: &Settings) -> Result<()> {
    let by_name = pipeline.by_name();
    let stale = planned.stages.iter().filter(|line| line.stale);
    let ids = stale.filter_map(|line| by_name.get(line.stage.as_str()));
    check_stages(ids.map(|id| pipeline.stage(*id)), settings)
}

/// Asks the scheduler whether it would take the jobs of these stages.
///
/// # Errors
/// When it would not.
pub fn check_stages<'s>(stages: impl Iterator<Item = &'s Stage>, settings: &Settings) -> Result<()> {
    if settings.launcher == LauncherName::Local {
        return Ok(());
    }
    let limits = limits(settings);
    let stages: Vec<(&Stage, Resources)> =
        stages.map(|stage| Ok((stage, need(settings, &limits, stage)?))).collect::<Result<_>>()?;
    let stages: Vec<(&Stage, &Resources)> = stages.iter().map(|(stage, need)| (*stage, need)).collect();
    Slurm::new(settings.clone(), WorkerProgram::this()?).check(&stages, &limits)
}

fn limits(settings: &Settings) -> Limits {
    let elsewhere = settings.launcher != LauncherName::Local;
    Limits { without_gpus: settings.gpus == Some(0), elsewhere, ..Limits::of_machine() }
}

/// What a stage requests, with its number of ranks.
fn need(settings: &Settings, limits: &Limits, stage: &Stage) -> Result<Resources> {
    let most = settings.of_stage(&stage.name, stage.kind.name).ranks;
    Ok(settled(stage, most, limits)?.unwrap_or_else(|| stage.resources.clone()))
}
