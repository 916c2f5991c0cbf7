//! Checks the files of stages that would run, as far as headers tell, so that a file of another
//! network is an error of the plan. Does not know formats.

use erw_base::error::{Error, ErrorKind, Result};
use erw_runner::pipeline::graph::{Pipeline, Stage, StageId};
use erw_runner::plan::Verdict;
use erw_stages::data::weights::{KIND, check_file};

/// Refuses the first file that a stage could not use.
pub fn check(pipeline: &Pipeline, verdicts: &[(StageId, Verdict)]) -> Result<()> {
    let stale = verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Run(_)));
    stale.map(|(id, _)| pipeline.stage(*id)).filter(|stage| stage.kind.name == KIND.name).try_for_each(check_stage)
}

fn check_stage(stage: &Stage) -> Result<()> {
    let mut params = stage.params.clone();
    for (name, source) in &stage.sources {
        params.insert(name.clone(), source.path.display().to_string().into());
    }
    let place = stage.origins.get("params.source").and_then(|origin| origin.place.clone());
    check_file(&params).map_err(|e| {
        // Nothing has run.
        let e = Error { kind: ErrorKind::Usage, ..e };
        e.within(&format!("stage `{}`", stage.name)).maybe_at(place)
    })
}
