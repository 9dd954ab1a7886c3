//! A cell read by many without locks and replaced by one: the published plan.
//! Readers pin an epoch; a replaced value is freed once no reader can hold it.

use crossbeam_epoch::{self as epoch, Atomic, Owned};
use std::sync::atomic::Ordering;

/// An epoch-protected cell.
pub struct Published<T: Send + Sync + 'static> {
    cell: Atomic<T>,
}

impl<T: Send + Sync + 'static> Published<T> {
    /// A cell holding `value`.
    pub fn new(value: T) -> Self {
        Published { cell: Atomic::new(value) }
    }

    /// Calls `f` with the current value. Wait-free; keep `f` short.
    pub fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        let guard = epoch::pin();
        let shared = self.cell.load(Ordering::Acquire, &guard);
        // SAFETY: the cell is never null (set in `new`, only swapped for another value), and a
        // swapped-out value is destroyed only after every guard pinned before the swap is gone.
        f(unsafe { shared.deref() })
    }

    /// Replaces the value; readers that hold the old one finish with it.
    pub fn publish(&self, value: T) {
        let guard = epoch::pin();
        let old = self.cell.swap(Owned::new(value), Ordering::AcqRel, &guard);
        // SAFETY: `old` came out of the cell by the swap, so no new reader can reach it, and it is
        // deferred exactly once.
        unsafe { guard.defer_destroy(old) };
    }
}

impl<T: Send + Sync + 'static> Drop for Published<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self` means no reader is left; the cell is never null.
        unsafe {
            let guard = epoch::unprotected();
            drop(self.cell.load(Ordering::Relaxed, guard).into_owned());
        }
    }
}
