//! The clock, injected everywhere so that time can be simulated.

use std::sync::Arc;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since an arbitrary start; never goes back.
    fn monotonic_ns(&self) -> u64;
    /// Nanoseconds since 1970; may jump.
    fn wall_ns(&self) -> i64;
    /// Minute of the day, local time.
    fn local_minute(&self) -> u16 {
        local_minute(self.wall_ns())
    }
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

/// The minute of the day by the machine's local time, of nanoseconds since 1970.
pub fn local_minute(wall_ns: i64) -> u16 {
    let zone = jiff::tz::TimeZone::system();
    let at = jiff::Timestamp::from_second(wall_ns.div_euclid(1_000_000_000)).unwrap_or_default();
    let civil = zone.to_datetime(at);
    civil.hour() as u16 * 60 + civil.minute() as u16
}
