//! Memory of feature maps while the layers of a network are said: handed out and given back, so that
//! what is needed at once is known from shapes alone.

use erw_gpu::program::Address;
use std::collections::BTreeMap;

/// Memory that is handed out and given back, each time the first gap that is large enough.
pub struct MapMemory {
    base: Address,
    /// Length of each gap, by its first byte.
    gaps: BTreeMap<usize, usize>,
    /// Bytes that were ever in use.
    end: usize,
}

impl MapMemory {
    /// From an address on.
    pub fn at(base: Address) -> Self {
        Self { base, gaps: BTreeMap::new(), end: 0 }
    }

    /// Bytes that were ever in use.
    pub fn bytes(&self) -> usize {
        self.end
    }

    /// The first gap of so many bytes, or memory behind all others.
    pub fn take(&mut self, bytes: usize) -> Address {
        let gap = self.gaps.iter().find(|(_, length)| **length >= bytes).map(|(first, length)| (*first, *length));
        let first = match gap {
            Some((first, length)) => {
                self.gaps.remove(&first);
                if length > bytes {
                    self.gaps.insert(first + bytes, length - bytes);
                }
                first
            }
            // The last gap grows, if it reaches the end.
            None => {
                let last = self.gaps.last_key_value().map(|(first, length)| (*first, *length));
                let first = match last {
                    Some((first, length)) if first + length == self.end => {
                        self.gaps.remove(&first);
                        first
                    }
                    _ => self.end,
                };
                self.end = first + bytes;
                first
            }
        };
        self.base.offset(first)
    }

    /// Takes back what was handed out.
    pub fn give_back(&mut self, at: Address, bytes: usize) {
        let (mut first, mut length) = ((at.0 - self.base.0) as usize, bytes);
        if let Some(after) = self.gaps.remove(&(first + length)) {
            length += after;
        }
        if let Some((before, of_it)) = self.gaps.range(..first).next_back().map(|(a, b)| (*a, *b))
            && before + of_it == first
        {
            self.gaps.remove(&before);
            first = before;
            length += of_it;
        }
        self.gaps.insert(first, length);
    }
}
