//! Checks the files that `weights` stages name, as far as headers tell, so that a file of another
//! network is an error before anything runs. Does not know formats.

use erw_base::error::{Error, ErrorKind, Result};
use erw_runner::pipeline::graph::{Pipeline, Stage, StageId};
use erw_stages::data::weights::{KIND, check_file};

/// Refuses the first file that its stage, one of these, could not use.
pub fn check(pipeline: &Pipeline, stages: impl Iterator<Item = StageId>) -> Result<()> {
    stages.map(|id| pipeline.stage(id)).filter(|stage| stage.kind.name == KIND.name).try_for_each(check_stage)
}

fn check_stage(stage: &Stage) -> Result<()> {
    let mut params = stage.params.clone();
    for (name, source) in &stage.sources {
        params.insert(name.clone(), source.path.display().to_string().into());
    }
    let place = stage.origins.get("params.source").and_then(|origin| origin.place.clone());
    check_file(&params, &stage.operation).map_err(|e| {
        // Nothing has run.
        let e = Error { kind: ErrorKind::Usage, ..e };
        e.within(&format!("stage `{}`", stage.name)).maybe_at(place)
    })
}
