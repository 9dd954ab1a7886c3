//! A rate that several share and that may be changed while they wait: a token bucket that may run into debt (the leaky
//! bucket as a meter; Turner, "New Directions in Communications", IEEE Communications 1986). Over any span of time
//! no more is taken than the rate allows, but for `BURST` and the last piece.

use super::clock::{Clock, RealClock};
use parking_lot::{Condvar, Mutex};
use std::time::Duration;

/// What may be taken at once after a pause, in seconds of the rate.
const BURST: f64 = 0.1;
/// Nobody waits longer than this without looking whether the rate was changed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Bounds of a piece in bytes.
const PIECE_MIN: u64 = 4 << 10;
const PIECE_MAX: u64 = 256 << 10;

#[derive(Default)]
struct State {
    rate: Option<u64>,
    /// Bytes that may be taken now; below zero: owed.
    credit: f64,
    at_ns: u64,
    taken: u64,
    stopped: bool,
}

/// See the module.
#[derive(Default)]
pub struct Limiter {
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Limiter({:?})", self.rate())
    }
}

impl State {
    fn refill(&mut self, now_ns: u64) {
        let Some(rate) = self.rate else { return };
        let gone = now_ns.saturating_sub(self.at_ns) as f64 / 1e9;
        self.credit = (self.credit + gone * rate as f64).min(rate as f64 * BURST);
        self.at_ns = now_ns.max(self.at_ns);
    }

    /// Takes bytes if the rate allows any now; else says how long to wait before asking again.
    fn take(&mut self, bytes: u64, now_ns: u64) -> Option<Duration> {
        self.refill(now_ns);
        if let Some(rate) = self.rate.filter(|_| self.credit < 0.0) {
            let wait = Duration::from_secs_f64((-self.credit / rate as f64).min(1.0));
            return Some(wait.clamp(Duration::from_millis(1), LOOK_AGAIN));
        }
        if self.rate.is_some() {
            self.credit -= bytes as f64;
        }
        self.taken += bytes;
        None
    }
}

impl Limiter {
    /// Bytes per second; `None` or 0: as fast as it goes.
    pub fn new(rate: Option<u64>) -> Limiter {
        let l = Limiter::default();
        l.set_rate(rate);
        l
    }

    pub fn rate(&self) -> Option<u64> {
        self.state.lock().rate
    }

    /// Changes the rate, for those who wait as well. What is owed is paid at the new one.
    pub fn set_rate(&self, rate: Option<u64>) {
        let mut s = self.state.lock();
        let now = RealClock.monotonic_ns();
        s.refill(now);
        s.rate = rate.filter(|&r| r > 0);
        s.credit = s.rate.map_or(0.0, |r| s.credit.min(r as f64 * BURST));
        s.at_ns = now;
        drop(s);
        self.changed.notify_all();
    }

    /// Takes bytes if the rate allows it now; else says how long to wait before asking again.
    pub fn take(&self, bytes: u64) -> Option<Duration> {
        self.state.lock().take(bytes, RealClock.monotonic_ns())
    }

    /// Waits until bytes may go. False: it was stopped.
    pub fn wait(&self, bytes: u64) -> bool {
        let mut s = self.state.lock();
        loop {
            if s.stopped {
                return false;
            }
            match s.take(bytes, RealClock.monotonic_ns()) {
                None => return true,
                Some(wait) => {
                    self.changed.wait_for(&mut s, wait);
                }
            }
        }
    }

    /// How much to take at a time for an even flow: about a twentieth of a second.
    pub fn piece(&self) -> usize {
        self.rate().map_or(usize::MAX, |r| (r / 20).clamp(PIECE_MIN, PIECE_MAX) as usize)
    }

    /// Bytes taken so far.
    pub fn taken(&self) -> u64 {
        self.state.lock().taken
    }

    /// Nobody waits any more: what is under way fails.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn state(rate: u64) -> State {
        State { rate: Some(rate), ..State::default() }
    }

    /// Takes pieces as soon as it may, from `from` to `to`; returns the bytes.
    fn drive(s: &mut State, piece: u64, from: u64, to: u64) -> u64 {
        let (mut now, mut all) = (from, 0);
        while now < to {
            match s.take(piece, now) {
                None => all += piece,
                Some(wait) => now += wait.as_nanos() as u64,
            }
        }
        all
    }

    #[test]
    fn what_is_taken_is_the_rate_whatever_the_pieces() {
        for piece in [1000, 50_000, 1_000_000, 8 << 20] {
            let mut s = state(1_000_000);
            let got = drive(&mut s, piece, 0, 100 * S) as f64;
            let off = 0.3e6 + 2.0 * piece as f64;
            assert!((got - 100e6).abs() <= off, "{piece}: {got}");
        }
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let mut s = state(1_000_000);
        drive(&mut s, 1000, 0, S);
        let got = drive(&mut s, 1000, 3600 * S, 3601 * S);
        assert!(got <= 1_110_000, "{got}");
    }

    #[test]
    fn a_new_rate_counts_at_once() {
        let l = Limiter::new(Some(1 << 20));
        assert_eq!(l.take(1 << 30), None);
        assert!(l.take(1).is_some(), "a lot is owed");
        l.set_rate(None);
        assert_eq!(l.take(1 << 30), None);
        l.set_rate(Some(0));
        assert_eq!(l.rate(), None);
        l.set_rate(Some(10));
        assert!(l.piece() == PIECE_MIN as usize && l.wait(1), "nothing is owed from before");
        l.stop();
        assert!(!l.wait(1));
    }
}
