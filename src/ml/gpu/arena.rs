//! Memory of activations, laid out before the first step. Nothing is allocated within a step, so
//! the memory that a training needs is known before it starts.

use erw_gpu::program::{Address, Type};

/// Addresses are multiples of this, which cuBLASLt's fastest kernels ask for.
const ALIGNMENT: usize = 256;

/// Hands out addresses one after another.
#[derive(Debug)]
pub struct Arena {
    next: Address,
    bytes: usize,
}

impl Arena {
    /// From an address on.
    pub fn at(base: Address) -> Self {
        Self { next: base, bytes: 0 }
    }

    /// For measuring: addresses that nobody may use.
    pub fn measure() -> Self {
        Self::at(Address(ALIGNMENT as u64))
    }

    /// Space for so many numbers.
    pub fn take(&mut self, count: usize, ty: Type) -> Address {
        self.take_bytes(count * ty.size())
    }

    pub fn take_bytes(&mut self, bytes: usize) -> Address {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let here = self.next;
        self.next = here.offset(bytes);
        self.bytes += bytes;
        here
    }

    /// What is handed out next.
    pub fn here(&self) -> Address {
        self.next
    }

    /// Bytes handed out.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
