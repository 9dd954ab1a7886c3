//! A clock that moves only when told to.

use crate::sys::clock::Clock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Both clocks, moved by hand. Each reading is one nanosecond later than the one before.
pub struct ManualClock {
    monotonic: AtomicU64,
    wall: AtomicI64,
}

impl Default for ManualClock {
    fn default() -> Self {
        ManualClock {
            monotonic: AtomicU64::new(1_000_000_000),
            wall: AtomicI64::new(1_700_000_000_000_000_000),
        }
    }
}

impl ManualClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.monotonic.fetch_add(by.as_nanos() as u64, Ordering::AcqRel);
        self.wall.fetch_add(by.as_nanos() as i64, Ordering::AcqRel);
    }
}

impl Clock for ManualClock {
    fn monotonic_ns(&self) -> u64 {
        self.monotonic.fetch_add(1, Ordering::AcqRel)
    }
    fn wall_ns(&self) -> i64 {
        self.wall.fetch_add(1, Ordering::AcqRel)
    }
    fn local_minute(&self) -> u16 {
        (self.wall_ns() / 60_000_000_000 % (24 * 60)) as u16
    }
}
