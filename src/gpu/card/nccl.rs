//! A [`Link`] between cards by NCCL, on the stream of the card: what is queued stays in order. Only
//! moves bytes; NCCL's own sums depend on sizes, ranks and topology.

use super::Card;
use super::libraries::nccl as calls;
use crate::machine::Link;
use crate::program::Address;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::nccl::{result, sys};
use candle_core::{Error, Result};
use std::ffi::c_char;
use std::sync::Arc;

/// The name by which ranks find each other: one of them makes it, all of them connect with it.
pub type Id = [u8; 128];

/// The ranks that have connected.
pub struct Nccl {
    comm: sys::ncclComm_t,
    stream: Arc<CudaStream>,
    rank: usize,
    size: usize,
}

fn failed(what: &str) -> impl Fn(result::NcclError) -> Error + '_ {
    move |e| Error::msg(format!("NCCL cannot {what}: {:?}; NCCL_DEBUG=INFO says more", e.0))
}

/// A new id.
///
/// # Errors
/// No network that NCCL can use.
pub fn new_id() -> Result<Id> {
    let id = result::get_uniqueid().map_err(failed("make an id"))?;
    Ok(id.internal.map(|byte| byte.cast_unsigned()))
}

impl Card {
    /// Waits until all `size` ranks have connected with this id.
    ///
    /// # Errors
    /// A rank that cannot be reached, or two on one card.
    pub fn connect(&self, id: &Id, rank: usize, size: usize) -> Result<Nccl> {
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as c_char) };
        self.context.bind_to_thread().map_err(super::driver("cannot use the GPU"))?;
        let comm = calls::connect(id, rank, size).map_err(failed("connect the GPUs"))?;
        Ok(Nccl { comm, stream: self.stream.clone(), rank, size })
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Not destroyed: that waits for what is queued, and a rank that has failed would wait for ever.
        calls::abort(self.comm);
    }
}

impl Link for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn swap(&self, from: Address, to: Address, each: usize) -> Result<()> {
        let failed = failed("exchange rows");
        result::group_start().map_err(&failed)?;
        let rows = |peer: usize| [from, to].map(|at| at.offset(peer * each * 4).0);
        let exchange = |peer| calls::exchange(self.comm, &self.stream, peer, rows(peer), each);
        let queued = (0..self.size).try_for_each(exchange);
        // Also after an error, or the group stays open.
        let ended = result::group_end().map_err(&failed);
        queued.map_err(&failed)?;
        ended.map(drop)
    }

    fn join(&self, mine: Address, all: Address, each: usize) -> Result<()> {
        calls::gather(self.comm, &self.stream, mine.0, all.0, each).map_err(failed("gather rows"))
    }
}
