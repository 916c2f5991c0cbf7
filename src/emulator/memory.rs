//! The emulator's memory: allocations that begin as NaN, with guard bytes around them, and a mark
//! for each byte, by which launches are held to the regions that they tell.

use crate::library::Span;
use candle_core::{Result, bail};
use erw_gpu::program::{Access, Address, Region};

const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;

/// Numbers that nobody wrote are NaN in every type.
const UNWRITTEN: u8 = 0xff;

/// Bits of a mark, as in `watch.h`: what was done, and what a launch may do.
const READ: u8 = 1;
const WRITTEN: u8 = 2;
const MAY_READ: u8 = 4;
const MAY_WRITE: u8 = 8;

/// What was done and what may be done by an access.
fn bits(access: Access) -> &'static [(u8, u8)] {
    match access {
        Access::Read => &[(READ, MAY_READ)],
        Access::Write => &[(WRITTEN, MAY_WRITE)],
        Access::Update => &[(READ, MAY_READ), (WRITTEN, MAY_WRITE)],
    }
}

#[derive(Debug)]
struct Allocation {
    buffer: Vec<u8>,
    /// Of the bytes of the buffer; 0 between launches.
    marks: Vec<u8>,
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
        let marks = vec![0; buffer.len()];
        self.allocations.push(Allocation { buffer, marks, start, len });
        address
    }

    /// The bytes from an address, all in one allocation.
    pub fn bytes(&mut self, at: Address, len: usize) -> Result<&mut [u8]> {
        let (a, from) = self.find(at, len)?;
        Ok(&mut a.buffer[from..][..len])
    }

    /// The allocation that has these bytes, and their place in its buffer.
    fn find(&mut self, at: Address, len: usize) -> Result<(&mut Allocation, usize)> {
        for a in &mut self.allocations {
            let first = a.buffer[a.start..].as_ptr() as u64;
            if let Some(from) = at.0.checked_sub(first).map(|from| from as usize)
                && from + len <= a.len
            {
                let from = a.start + from;
                return Ok((a, from));
            }
        }
        bail!("{len} bytes at {:#x} are in no allocation", at.0)
    }

    /// All memory with its guards, in order of addresses, for one launch.
    pub fn spans(&mut self) -> Vec<Span> {
        let span = |a: &mut Allocation| Span {
            first: a.buffer.as_ptr() as usize,
            size: a.buffer.len(),
            marks: a.marks.as_mut_ptr(),
        };
        let mut spans: Vec<Span> = self.allocations.iter_mut().map(span).collect();
        spans.sort_by_key(|span| span.first);
        spans
    }

    /// The marks of each row of a region.
    fn marks(&mut self, region: &Region, mut each: impl FnMut(&mut [u8])) -> Result<()> {
        for row in 0..region.rows {
            let (a, from) = self.find(region.at.offset(row * region.pitch), region.bytes)?;
            each(&mut a.marks[from..][..region.bytes]);
        }
        Ok(())
    }

    /// Lets a launch touch these regions.
    ///
    /// # Errors
    /// A region outside of allocations, or two that overlap: their bytes would count twice.
    pub fn permit(&mut self, regions: &[Region]) -> Result<()> {
        for (i, region) in regions.iter().enumerate() {
            for (_, may) in bits(region.access) {
                let mut new = 0;
                self.marks(region, |marks| {
                    for mark in marks {
                        new += usize::from(*mark & may == 0);
                        *mark |= may;
                    }
                })?;
                if new != region.rows * region.bytes {
                    bail!("region {i}, {region:?}, overlaps another");
                }
            }
        }
        Ok(())
    }

    /// Holds a launch to what it told.
    ///
    /// # Errors
    /// A region of which it touched less, or more than the most.
    pub fn hold(&mut self, regions: &[Region]) -> Result<()> {
        for (i, region) in regions.iter().enumerate() {
            for (did, _) in bits(region.access) {
                let mut touched = 0;
                self.marks(region, |marks| touched += marks.iter().filter(|mark| *mark & did != 0).count())?;
                let told = region.touched();
                if touched > told || (touched < told && region.some.is_none()) {
                    let what = if *did == READ { "read" } else { "written" };
                    bail!("{told} bytes of region {i} are told as {what}, and {touched} were: {region:?}");
                }
            }
        }
        Ok(())
    }

    /// Forgets what was permitted and done.
    pub fn forget(&mut self, regions: &[Region]) {
        for region in regions {
            // A region that is not there has no marks.
            let _ = self.marks(region, |marks| marks.fill(0));
        }
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
