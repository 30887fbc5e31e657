//! The live numbers of a backend that a strategy may read.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Live numbers of one backend: relaxed atomics, each exact, none publishing another.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Load {
    open: AtomicU32,
    latency: AtomicU64,
}

impl Load {
    /// Open connections, those being established included.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }
}
