//! On how many ranks a stage runs: as many as it states, otherwise as settings allow and its
//! parameters and the limits of the run permit. Does not know how ranks are started.

use super::resources::Limits;
use crate::kind::ranks::{HAS_MPI, HAS_NCCL, Sharing};
use crate::pipeline::graph::{Resources, Stage};
use erw_base::error::{Error, Result};

/// What a stage requests in a run with its number of ranks, of which there are at most `most` if it
/// states none. `None`: as the stage says, on one.
///
/// # Errors
/// When this build cannot run it on as many ranks as it states.
pub fn settled(stage: &Stage, most: Option<usize>, limits: &Limits) -> Result<Option<Resources>> {
    let need = &stage.resources;
    let Some(sharing) = stage.manifest.ranks else { return Ok(None) };
    let gpus = if limits.without_gpus { 0 } else { need.gpus };
    let trains = sharing == Sharing::MicroBatches;
    let can_exchange = !trains || if gpus > 0 { HAS_NCCL } else { HAS_MPI };
    let ranks = match need.ranks {
        // Those were its GPUs; threads do better than ranks.
        Some(_) if need.gpus > 0 && gpus == 0 => 1,
        Some(ranks) if ranks > 1 && !can_exchange => {
            return Err(Error::usage(format!(
                "stage `{}`: this build has no NCCL, over which {ranks} ranks would train on GPUs",
                stage.name
            ))
            .hint("build one that has it by `cargo build --features nccl`, or set `gpus = 1`"));
        }
        Some(ranks) => ranks,
        None if !can_exchange => 1,
        None => {
            let have = match (limits.elsewhere, gpus) {
                (true, _) => usize::MAX,
                (false, 0) => limits.threads,
                (false, _) => limits.gpus.len(),
            };
            sharing.largest(&stage.params, most.unwrap_or(1).min(have).max(1))
        }
    };
    Ok(Some(Resources { gpus: if gpus > 0 { ranks } else { 0 }, ranks: Some(ranks), ..need.clone() }))
}
