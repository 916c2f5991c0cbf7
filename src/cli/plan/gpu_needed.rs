//! Whether stages that ask for what only a GPU computes have one. Does not know what that is; the kinds
//! do.

use super::line::Planned;
use erw_base::error::{Error, Result};
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::settings::{LauncherName, Settings};

/// Checks each stale stage.
///
/// # Errors
/// One that has no GPU.
pub fn check(planned: &Planned, pipeline: &Pipeline, settings: &Settings) -> Result<()> {
    let none_here = settings.launcher == LauncherName::Local && settings.gpus == Some(0);
    let by_name = pipeline.by_name();
    for line in planned.stages.iter().filter(|line| line.stale) {
        let Some(stage) = by_name.get(line.stage.as_str()).map(|id| pipeline.stage(*id)) else { continue };
        let asked = erw_stages::only_on_a_gpu(stage.kind.name, &stage.params);
        if let Some((name, error)) = asked.filter(|_| none_here || stage.resources.gpus == 0) {
            let place = stage.origins.get(format!("params.{name}").as_str()).and_then(|origin| origin.place.clone());
            let message = format!("stage `{}`: {}", stage.name, error.message);
            return Err(Error { message, ..error }.maybe_at(place));
        }
    }
    Ok(())
}
