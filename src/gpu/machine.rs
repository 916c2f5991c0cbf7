//! A machine that runs programs: a card, or the emulator.

use crate::program::{Address, Program};
use candle_core::Result;

/// Memory and a stream of commands. Everything happens in order.
pub trait Machine {
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
