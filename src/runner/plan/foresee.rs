//! What stages would refuse of the files that they name, asked of their kinds before anything runs:
//! an archive that ends early, weights of another network. Only of stages that are stale, since the
//! files of a cached one have been read. Does not know formats.

use super::{CacheChecker, Verdict, missing};
use crate::pipeline::graph::{Pipeline, Stage, StageId};
use erw_base::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// Refuses the first stale stage among these that could not use its files. Reads no contents to know
/// which are stale: files that have changed since they were read are of a stale stage.
pub fn selected(checker: &CacheChecker<'_>, selected: &[StageId]) -> Result<()> {
    for &id in selected {
        let stage = checker.pipeline.stage(id);
        let can_tell = stage.kind.foresee.is_some() && stage.inputs.is_empty();
        if can_tell && missing(stage).is_empty() && !is_cached(checker, id, stage)? {
            one(stage)?;
        }
    }
    Ok(())
}

fn is_cached(checker: &CacheChecker<'_>, id: StageId, stage: &Stage) -> Result<bool> {
    if !stage.sources.values().all(|source| checker.files.recalls(checker.store, source)) {
        return Ok(false);
    }
    Ok(checker.cached(id, &checker.key(stage, &BTreeMap::new())?)?.is_some())
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
