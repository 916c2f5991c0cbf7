//! What the stages of a run request, and whether there is so much. Does not know what runs when.

use super::Options;
use crate::exec::launch::Launcher;
use crate::exec::rank_count::settled;
use crate::exec::resources::ResourcePool;
use crate::pipeline::graph::{Pipeline, Resources, StageId};
use crate::plan;
use erw_base::error::Result;
use std::collections::BTreeMap;

/// What the stages request that can share their work, with their numbers of ranks.
pub(super) type Needs = BTreeMap<StageId, Resources>;

/// Of each stage that can share its work.
pub(super) fn needs(pipeline: &Pipeline, options: &Options) -> Result<Needs> {
    let mut needs = Needs::new();
    for id in &options.selected {
        let settled = settled(&pipeline.stages[id.0], options.most_ranks.get(id).copied(), &options.limits)?;
        needs.extend(settled.map(|need| (*id, need)));
    }
    Ok(needs)
}

/// What a stage requests.
pub(super) fn need<'n>(needs: &'n Needs, pipeline: &'n Pipeline, id: StageId) -> &'n Resources {
    needs.get(&id).unwrap_or(&pipeline.stages[id.0].resources)
}

/// Refuses now what is known to fail later, possibly after days of work.
pub(super) fn check(
    pipeline: &Pipeline,
    needs: &Needs,
    launcher: &dyn Launcher,
    options: &Options,
) -> Result<ResourcePool> {
    let stages = || options.selected.iter().map(|id| (&pipeline.stages[id.0], need(needs, pipeline, *id)));
    let pool = ResourcePool::new(options.limits.clone(), stages().map(|(s, need)| (s.name.as_str(), need)));
    let missing = plan::all_missing(stages().map(|(stage, _)| stage));
    launcher.check(&stages().collect::<Vec<_>>(), &options.limits)?;
    match plan::missing_error(&missing).filter(|_| !options.keep_going) {
        // Report both at once: after fetching the files, the user would only learn that the
        // resources do not suffice.
        Some(error) => Err(error.maybe_hint(pool.err().map(|e| [vec![e.message], e.hints].concat().join("; ")))),
        None => pool,
    }
}
