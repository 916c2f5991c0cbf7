//! Reused memory for intermediate results. A training step needs the same sizes every time, and
//! fresh memory costs a pass of zeros and a page fault for every 4 KiB.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Free buffers by length.
static POOL: Mutex<Option<HashMap<usize, Vec<Vec<f32>>>>> = Mutex::new(None);

/// A buffer that returns to the pool when dropped.
#[derive(Debug)]
pub struct Scratch(Vec<f32>);

/// A buffer of `len` values with unspecified contents: write before reading.
pub fn take(len: usize) -> Scratch {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let free = pool.get_or_insert_default().get_mut(&len).and_then(Vec::pop);
    drop(pool);
    Scratch(free.unwrap_or_else(|| vec![0.0; len]))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.get_or_insert_default().entry(buffer.len()).or_default().push(buffer);
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
