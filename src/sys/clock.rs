//! The clock, injected everywhere so that time can be simulated.

use std::sync::Arc;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since an arbitrary start; never goes back.
    fn monotonic_ns(&self) -> u64;
    /// Nanoseconds since 1970; may jump.
    fn wall_ns(&self) -> i64;
}

/// The machine's clocks.
pub struct RealClock;

impl Clock for RealClock {
    fn monotonic_ns(&self) -> u64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }
    fn wall_ns(&self) -> i64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        t.tv_sec * 1_000_000_000 + t.tv_nsec
    }
}

/// Nanoseconds since the machine's start, sleep included.
pub fn boot_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The machine's clock, shared.
pub fn real() -> Arc<dyn Clock> {
    Arc::new(RealClock)
}
