//! The marks of the log, asserted in one place: `durable <= appended`.

use crate::types::Lsn;
use std::sync::atomic::{AtomicU64, Ordering};

/// Global positions of the log.
pub struct Marks {
    next: AtomicU64,
    stable: AtomicU64,
}

impl Marks {
    /// Marks of a log whose last record is `last`, all of it durable.
    pub fn after(last: Lsn) -> Marks {
        Marks { next: AtomicU64::new(last.0 + 1), stable: AtomicU64::new(last.0) }
    }
    /// The number of a new record. Call with the segment's lock held.
    pub(super) fn allocate(&self) -> Lsn {
        Lsn(self.next.fetch_add(1, Ordering::AcqRel))
    }
    /// Last number given out.
    pub fn appended(&self) -> Lsn {
        Lsn(self.next.load(Ordering::Acquire) - 1)
    }
    /// Every record up to here is durable.
    pub fn stable(&self) -> Lsn {
        Lsn(self.stable.load(Ordering::Acquire))
    }
    pub(super) fn advance_stable(&self, to: Lsn) {
        assert!(to <= self.appended(), "durable <= appended");
        self.stable.fetch_max(to.0, Ordering::AcqRel);
    }
}
