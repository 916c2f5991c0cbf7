//! Where a stop asked for from outside is left for the scheduler.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// Where signals are left for the scheduler.
#[derive(Debug, Default)]
pub struct Stop {
    signal: AtomicI32,
    count: AtomicUsize,
}

impl Stop {
    pub const fn new() -> Self {
        Self { signal: AtomicI32::new(0), count: AtomicUsize::new(0) }
    }
    /// First call: put the work down. Second: end it now.
    pub fn ask(&self, signal: i32) {
        let _ = self.signal.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        self.count.fetch_add(1, Ordering::SeqCst);
    }
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
    pub fn signal(&self) -> Option<i32> {
        (self.count() > 0).then(|| self.signal.load(Ordering::SeqCst))
    }
}
