//! The emulator's memory: allocations that begin as NaN, with guard bytes around them.

use candle_core::{Result, bail};
use erw_gpu::program::Address;

const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;

/// Numbers that nobody wrote are NaN in every type.
const UNWRITTEN: u8 = 0xff;

#[derive(Debug)]
struct Allocation {
    buffer: Vec<u8>,
    /// Index of the first byte behind the guard.
    start: usize,
    len: usize,
}

#[derive(Debug, Default)]
pub struct Memory {
    allocations: Vec<Allocation>,
}

impl Memory {
    pub fn allocate(&mut self, len: usize) -> Address {
        let mut buffer = vec![GUARD_BYTE; len + 3 * GUARD];
        let start = GUARD + buffer[GUARD..].as_ptr().align_offset(256);
        buffer[start..start + len].fill(UNWRITTEN);
        let address = Address(buffer[start..].as_ptr() as u64);
        self.allocations.push(Allocation { buffer, start, len });
        address
    }

    /// The bytes from an address, all in one allocation.
    pub fn bytes(&mut self, at: Address, len: usize) -> Result<&mut [u8]> {
        for a in &mut self.allocations {
            let first = a.buffer[a.start..].as_ptr() as u64;
            if let Some(from) = at.0.checked_sub(first).map(|from| from as usize)
                && from + len <= a.len
            {
                return Ok(&mut a.buffer[a.start + from..][..len]);
            }
        }
        bail!("{len} bytes at {:#x} are in no allocation", at.0)
    }

    /// # Errors
    /// Bytes beside an allocation that were written.
    pub fn check_guards(&self) -> Result<()> {
        for a in &self.allocations {
            let (before, rest) = a.buffer.split_at(a.start);
            if before.iter().chain(&rest[a.len..]).any(|b| *b != GUARD_BYTE) {
                bail!("writes beside an allocation of {} bytes", a.len);
            }
        }
        Ok(())
    }
}
