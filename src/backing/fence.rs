//! How long a lease is good for, and what keeps one who lost it from writing.

use crate::sys::clock;
use crate::sys::worker::Bell;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const BEAT: Duration = Duration::from_secs(5);
const VALID: Duration = Duration::from_secs(20);
/// The longest that one change takes, as far as it is bounded.
pub const CHANGE: Duration = Duration::from_secs(60);
const SPARE: Duration = Duration::from_secs(10);

/// For tests: all times are divided by this number, up to 20.
const HASTE: &str = "FORELOG_TEST_LEASE_HASTE";

/// See `HASTE`.
pub fn haste() -> u32 {
    std::env::var(HASTE).ok().and_then(|v| v.parse().ok()).unwrap_or(1).clamp(1, 20)
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub beat: Duration,
    /// A holder begins no change so long after it began to store the lease the last time.
    pub valid: Duration,
    /// A lease that stays unchanged so long has lapsed: the holder's last change has ended or failed.
    pub lapse: Duration,
}

impl Times {
    /// `change`: the longest that one change takes, in any haste.
    pub fn new(change: Duration) -> Times {
        let by = haste();
        Times { beat: BEAT / by, valid: VALID / by, lapse: VALID / by + change + SPARE / by }
    }
}

/// Whose the backing is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Ours,
    /// This process or the machine was stopped for long, and nobody has looked since.
    Unsure,
    /// Another's.
    Lost,
}

/// What keeps one who lost the lease from writing. Times are on the clock that sleep does not stop.
pub struct Fence {
    pub times: Times,
    /// 0: there is no lease to lose.
    valid_until_ns: AtomicU64,
    /// When the lease was last seen to be ours, and when a change last began.
    seen_ns: AtomicU64,
    used_ns: AtomicU64,
    ticked_ns: AtomicU64,
    /// Since when it is not known whether we have been stopped for too long.
    unsure: (Mutex<Option<u64>>, Condvar),
    is_unsure: AtomicBool,
    closed: Mutex<Option<String>>,
    is_closed: AtomicBool,
    lost: AtomicBool,
    pub(super) bell: Bell,
}

pub(super) fn ns(d: Duration) -> u64 {
    d.as_nanos().min(u128::from(u64::MAX)) as u64
}

impl Fence {
    pub fn new(times: Times) -> Fence {
        Fence {
            times,
            valid_until_ns: AtomicU64::new(0),
            seen_ns: AtomicU64::new(0),
            used_ns: AtomicU64::new(0),
            ticked_ns: AtomicU64::new(0),
            unsure: Default::default(),
            is_unsure: AtomicBool::new(false),
            closed: Mutex::default(),
            is_closed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            bell: Bell::new(),
        }
    }

    /// Whether a change may begin now.
    pub fn check(&self) -> io::Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            let why = self.closed.lock().clone().unwrap_or_default();
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let until = self.valid_until_ns.load(Ordering::Acquire);
        if until == 0 {
            return Ok(());
        }
        let now = clock::boot_ns();
        self.used_ns.store(now, Ordering::Release);
        if now > until {
            let text = "the lease could not be renewed, so nothing is stored until it is";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }

    /// No change may ever begin again.
    pub fn forbid(&self, why: &str) {
        *self.closed.lock() = Some(why.to_owned());
        self.is_closed.store(true, Ordering::Release);
    }

    /// The lease is another's.
    pub(super) fn lose(&self, why: &str) {
        self.forbid(why);
        self.lost.store(true, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// The lease was seen to be ours so lately that nobody may have taken it over since.
    pub(super) fn is_fresh(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.seen_ns.load(Ordering::Acquire)) < ns(self.times.lapse)
    }

    /// The lease is another's; cheap.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// What is known now.
    pub fn standing(&self) -> Standing {
        if self.is_lost() {
            return Standing::Lost;
        }
        match self.valid_until_ns.load(Ordering::Acquire) > 0 && self.was_stopped() {
            true => Standing::Unsure,
            false => Standing::Ours,
        }
    }

    /// By whom it was taken over, once it was.
    pub fn lost_to(&self) -> Option<String> {
        self.is_lost().then(|| self.closed.lock().clone().unwrap_or_default())
    }

    fn was_stopped(&self) -> bool {
        let last = self.ticked_ns.load(Ordering::Acquire);
        let now = clock::boot_ns();
        if last > 0 && now.saturating_sub(last) > ns(self.times.valid) {
            self.unsure.0.lock().get_or_insert(now);
            self.is_unsure.store(true, Ordering::Release);
        }
        self.is_unsure.load(Ordering::Acquire)
    }

    fn is_sure(&self, since: &mut Option<u64>) {
        *since = None;
        self.is_unsure.store(false, Ordering::Release);
        self.unsure.1.notify_all();
    }

    /// Called several times a second by a thread that never waits long: a gap tells that we were stopped.
    pub fn tick(&self) {
        if self.was_stopped() {
            self.bell.ring();
        }
        self.ticked_ns.store(clock::boot_ns(), Ordering::Release);
    }

    /// Waits until somebody has looked whose the backing is; a store that does not answer in time is an outage, no takeover.
    pub fn look_again(&self, at_most: Duration) -> Standing {
        self.tick();
        let (m, c) = &self.unsure;
        let mut g = m.lock();
        let until = clock::boot_ns() + ns(at_most);
        while g.is_some() && clock::boot_ns() < until {
            c.wait_for(&mut g, at_most / 10);
        }
        self.is_sure(&mut g);
        drop(g);
        self.standing()
    }

    /// A look that began then has ended, whatever it found.
    pub(super) fn looked(&self, began_ns: u64) {
        let mut g = self.unsure.0.lock();
        if g.is_some_and(|since| began_ns >= since) {
            self.is_sure(&mut g);
        }
    }

    /// Less than half of the time is left.
    pub(super) fn is_short(&self) -> bool {
        let until = self.valid_until_ns.load(Ordering::Acquire);
        clock::boot_ns() + ns(self.times.valid) / 2 > until
    }

    /// Nothing was changed for some beats.
    pub(super) fn is_idle(&self) -> bool {
        clock::boot_ns().saturating_sub(self.used_ns.load(Ordering::Acquire)) > 2 * ns(self.times.beat)
    }

    pub(super) fn seen(&self, began_ns: u64) {
        self.seen_ns.store(began_ns, Ordering::Release);
    }

    pub(super) fn renewed(&self, began_ns: u64) {
        self.seen(began_ns);
        self.valid_until_ns.store(began_ns + ns(self.times.valid), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_closes() {
        let f = Fence::new(Times::new(CHANGE));
        f.check().unwrap();
        f.renewed(clock::boot_ns());
        f.check().unwrap();
        f.valid_until_ns.store(1, Ordering::Release);
        assert_eq!(f.check().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(f.standing(), Standing::Ours, "an outage is no takeover");
        f.renewed(clock::boot_ns());
        f.lose("over");
        assert_eq!(f.check().unwrap_err().to_string(), "over");
        assert_eq!((f.standing(), f.lost_to().as_deref()), (Standing::Lost, Some("over")));
    }

    #[test]
    fn one_who_was_stopped_is_unsure_until_somebody_looked() {
        let f = Fence::new(Times::new(CHANGE));
        f.renewed(clock::boot_ns());
        f.tick();
        assert_eq!(f.standing(), Standing::Ours);
        f.ticked_ns.store(1, Ordering::Release);
        assert_eq!(f.standing(), Standing::Unsure);
        f.looked(1);
        f.tick();
        assert_eq!(f.standing(), Standing::Unsure, "a look that began before does not tell");
        f.looked(clock::boot_ns());
        assert_eq!(f.standing(), Standing::Ours);
        f.ticked_ns.store(1, Ordering::Release);
        let short = Duration::from_millis(5);
        assert_eq!(f.look_again(short), Standing::Ours, "nobody answers: an outage");
        assert_eq!(f.standing(), Standing::Ours);
    }
}
