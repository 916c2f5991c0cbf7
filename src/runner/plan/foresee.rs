//! What stages would refuse of the files that they name, asked of their kinds before anything runs:
//! an archive that ends early, weights of another network. Only of stages that are stale, since the
//! files of a cached one have been read. Does not know formats.

use super::{CacheChecker, Verdict, plan};
use crate::cache::CacheRef;
use crate::pipeline::graph::{Pipeline, Stage, StageId};
use erw_base::error::{Error, ErrorKind, Result};
use std::collections::BTreeSet;

/// Refuses the first stale stage among these that could not use its files.
pub fn selected(
    pipeline: &Pipeline,
    cache: CacheRef<'_>,
    selected: &[StageId],
    forced: BTreeSet<StageId>,
) -> Result<()> {
    let can_tell = |id: &StageId| {
        let stage = pipeline.stage(*id);
        stage.kind.foresee.is_some() && stage.inputs.is_empty()
    };
    let some: Vec<StageId> = selected.iter().copied().filter(can_tell).collect();
    if some.is_empty() {
        return Ok(());
    }
    stale(pipeline, &plan(&CacheChecker::new(pipeline, cache, forced), &some)?)
}

/// The same of stages whose verdicts are known.
pub fn stale(pipeline: &Pipeline, verdicts: &[(StageId, Verdict)]) -> Result<()> {
    let stale = verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Run(_)));
    stale.map(|(id, _)| pipeline.stage(*id)).try_for_each(one)
}

fn one(stage: &Stage) -> Result<()> {
    let Some(foresee) = stage.kind.foresee else { return Ok(()) };
    let place = stage.origins.get("params.source").and_then(|origin| origin.place.clone());
    foresee(&stage.placed_params(), &stage.operation).map_err(|e| {
        // Nothing has run.
        let e = Error { kind: ErrorKind::Usage, ..e };
        e.within(&format!("stage `{}`", stage.name)).maybe_at(place)
    })
}
