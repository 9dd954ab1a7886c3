//! Whether this thread may wait: session threads may not, since each of them serves everyone.

use std::cell::Cell;

thread_local! {
    static PATIENT: Cell<bool> = const { Cell::new(true) };
}

/// True when the current thread may wait for a slow store or for space.
pub fn may_wait() -> bool {
    PATIENT.with(Cell::get)
}

/// Runs `f` with waiting forbidden on this thread.
pub fn impatient<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            PATIENT.with(|p| p.set(self.0));
        }
    }
    let _restore = Restore(PATIENT.with(|p| p.replace(false)));
    f()
}
