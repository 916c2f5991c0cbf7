//! A machine that runs programs: a card, or the emulator; and the way between machines.

use crate::program::{Address, Program};
use candle_core::Result;

/// Memory and a stream of commands. Everything happens in order.
pub trait Machine: Send + Sync {
    /// Bytes of memory, aligned to 256, that live as long as the machine. Their contents are
    /// unspecified.
    ///
    /// # Errors
    /// Too little memory.
    fn allocate(&self, bytes: usize) -> Result<Address>;

    /// Copies bytes to the machine. Commands of a later [`run`](Self::run) see them.
    fn write(&self, to: Address, bytes: &[u8]) -> Result<()>;

    /// Copies bytes from the machine after all commands so far.
    ///
    /// # Errors
    /// A command that failed, now or earlier.
    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<()>;

    /// Runs the commands in order. May return before they are done.
    fn run(&self, program: &Program) -> Result<()>;
}

/// The way between the memories of machines, one for each rank. All ranks make the same calls in the
/// same order. A call takes its place among the commands of the machine, and may return before it
/// is done.
pub trait Link {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Sends row `j` of `from` to rank `j`; row `r` of `to` comes from rank `r`. Rows are f32
    /// `[each]`.
    ///
    /// # Errors
    /// A rank that cannot be reached, now or by an earlier call.
    fn swap(&self, from: Address, to: Address, each: usize) -> Result<()>;

    /// Row `r` of `all` is `mine`, f32 `[each]`, of rank `r`.
    ///
    /// # Errors
    /// As [`swap`](Self::swap).
    fn join(&self, mine: Address, all: Address, each: usize) -> Result<()>;
}
