//! The ranks of a training: over the GPUs' own way if they have one, else over MPI. Knows neither the
//! network nor how ranks are started.

use crate::support::card::Opened;
use erw_base::error::{Error, Result};
use erw_ml::gpu::reduction::ByLink;
use erw_ml::ranks::{Exchange, Ranks};
use erw_runner::kind::attempt::Attempt;
use std::rc::Rc;

/// Runs `body` with the ranks of the attempt. `gpu` is this rank's.
///
/// # Errors
/// What `body` returns; several ranks without a way to each other, or that are numbered otherwise
/// than the launcher says.
pub fn with_ranks<T>(attempt: &Attempt, gpu: Option<&Opened>, body: impl FnOnce(Ranks) -> Result<T>) -> Result<T> {
    if attempt.ranks() == 1 {
        return body(Ranks::default());
    }
    if let Some(Opened { machine, link: Some(link) }) = gpu {
        let by = ByLink::new(link.clone(), machine.clone());
        return are_numbered_as_told(attempt, &by).and_then(|()| body(Ranks::new(Rc::new(by))));
    }
    if attempt.device() != "cpu" {
        let text = format!("{} GPUs cannot share a training by candle's operations", attempt.ranks());
        return Err(Error::usage(text).hint("the log names the setting that erw's own kernels lack; `gpus = 1`"));
    }
    over_mpi(attempt, body)
}

#[cfg(feature = "mpi")]
fn over_mpi<T>(attempt: &Attempt, body: impl FnOnce(Ranks) -> Result<T>) -> Result<T> {
    let (universe, world) = crate::support::mpi::World::join()?;
    let result = are_numbered_as_told(attempt, &world).and_then(|()| body(Ranks::new(Rc::new(world))));
    // The end of MPI waits for all ranks, and those that did not fail wait for this one.
    if result.as_ref().is_err_and(|e| e.kind != erw_base::error::ErrorKind::Suspended) {
        std::mem::forget(universe);
    }
    result
}

#[cfg(not(feature = "mpi"))]
fn over_mpi<T>(attempt: &Attempt, _: impl FnOnce(Ranks) -> Result<T>) -> Result<T> {
    let text = format!("{} ranks cannot train together: this erw was built without MPI", attempt.ranks());
    Err(Error::usage(text)
        .hint("build one that has it by `cargo build --release --features mpi`, or use one rank with more threads"))
}

fn are_numbered_as_told(attempt: &Attempt, exchange: &dyn Exchange) -> Result<()> {
    let (told, found) = ([attempt.rank(), attempt.ranks()], [exchange.rank(), exchange.size()]);
    if told == found {
        return Ok(());
    }
    let [[rank, size], [own, all]] = [told, found];
    Err(Error::stage(format!("this is rank {rank} of {size}, but the ranks have found rank {own} of {all}"))
        .hint("over MPI, the program must be built with the MPI that starts it"))
}
