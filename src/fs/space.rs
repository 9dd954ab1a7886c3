//! Space and backpressure: writers slow down smoothly from 80 % of the log, the heaviest first, then
//! wait while the backing drains, then get ENOSPC at the call that does not fit. The same for files
//! with changes, which take memory.

use super::{Fs, Who};
use crate::backing::BackingSpace;
use crate::sys::patience;
use crate::sys::worker;
use crate::volume::{Error, Result};
use crate::wal::{Class, Owner};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Fill of the log from which writers slow down.
const SOFT: f64 = 0.8;
/// The longest delay of one write, at 100 %.
const DELAY_MAX: Duration = Duration::from_millis(200);
/// Crowding of the inodes in memory from which programs that change more and more files slow down.
const CROWDED: f64 = 0.5;
/// The longest delay of one change of another file, at 100 %.
const CROWD_DELAY_MAX: Duration = Duration::from_millis(20);
/// A writer waits for space as long as something drains; this long without any progress it is told. A slow
/// backing may take as long to sync what it was given.
const STALL: Duration = Duration::from_secs(60);

/// What the backpressure knows.
#[derive(Default)]
pub struct Pressure {
    /// Rung so that the writeback starts at once.
    pub wake: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
    /// Calls that had to wait for space.
    pub stalls: AtomicU64,
    space: Mutex<Option<(u64, BackingSpace)>>,
}

impl Fs {
    /// Slows a writer down when the log fills, up to where it may fill it. Errors: `WouldBlock` where it may not wait.
    pub(super) fn throttle(&self, who: &Who, bytes: usize) -> Result<()> {
        let fill = self.volume.wal.pool.fill_for(Owner::Client(who.client.slot.id));
        if fill < SOFT {
            return Ok(());
        }
        self.wake_writeback();
        let over = ((fill - SOFT) / (1.0 - SOFT)).min(1.0);
        self.delay(who, DELAY_MAX.mul_f64(over * over * self.share(who, bytes)))
    }

    /// Slows down who changes one file after the other when too many wait for the writeback. Errors:
    /// `WouldBlock` where it may not wait.
    pub(super) fn throttle_files(&self, who: &Who) -> Result<()> {
        let crowding = self.volume.crowding();
        if crowding < CROWDED {
            return Ok(());
        }
        self.wake_writeback();
        let over = ((crowding - CROWDED) / (1.0 - CROWDED)).min(1.0);
        self.delay(who, CROWD_DELAY_MAX.mul_f64(over * over))
    }

    fn delay(&self, who: &Who, delay: Duration) -> Result<()> {
        if delay < Duration::from_micros(20) {
            return Ok(());
        }
        if !patience::may_wait() {
            return Err(Error::WouldBlock);
        }
        worker::sleep(delay);
        who.client.throttled_ns.fetch_add(delay.as_nanos() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// How much of the load this write is: what its client holds of the log, and its size. So the delay is one of
    /// bytes: many small writes of a client that holds most of the log wait as long as one large one.
    fn share(&self, who: &Who, bytes: usize) -> f64 {
        let pool = &self.volume.wal.pool;
        let held = pool.held_by(Owner::Client(who.client.slot.id)) as f64;
        let of_log = held / pool.limits.limit(Class::Data).max(1) as f64;
        of_log * (bytes as f64 / (1 << 20) as f64).min(1.0)
    }

    /// Asks the writeback to start.
    pub fn wake_writeback(&self) {
        if let Some(wake) = &*self.pressure.wake.lock() {
            wake();
        }
    }

    /// Runs an operation where it may wait: again and again while the log is full and drains.
    pub fn patiently<T>(&self, mut op: impl FnMut() -> Result<T>) -> Result<T> {
        let mut last = self.progress();
        let mut idle = Duration::ZERO;
        let mut counted = false;
        loop {
            match op() {
                Err(Error::Full) if idle < STALL => {
                    if !counted {
                        counted = true;
                        self.pressure.stalls.fetch_add(1, Ordering::Relaxed);
                    }
                    self.wake_writeback();
                    let step = Duration::from_millis(100);
                    let freed = self.volume.wait_for_space(step);
                    let now = self.progress();
                    idle = if freed || now != last { Duration::ZERO } else { idle + step };
                    last = now;
                }
                other => return other,
            }
        }
    }

    fn progress(&self) -> (u64, u64, u64, usize) {
        let v = &self.volume;
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (of(&v.stored_bytes), of(&v.given_bytes), v.checkpointed().0, v.inodes())
    }

    /// Space of the store, asked at most once a second.
    pub fn statfs(&self) -> Result<BackingSpace> {
        let now = self.volume.clock.monotonic_ns();
        if let Some((at, s)) = *self.pressure.space.lock()
            && now.saturating_sub(at) < 1_000_000_000
        {
            return Ok(s);
        }
        self.volume.may_ask_backing()?;
        let s = self.volume.backing.space().map_err(Error::Backing)?;
        *self.pressure.space.lock() = Some((now, s));
        Ok(s)
    }
}
