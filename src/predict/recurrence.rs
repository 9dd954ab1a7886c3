//! What came out of a calm, and came again: an amount that is worth waiting for. One flood that stopped is not, though
//! models expect it for as long as they remember it; bursts that return are.

use std::collections::VecDeque;

/// Surprises kept, and for how long.
const KEPT: usize = 16;
const KEPT_TICKS: u64 = 12_000;

/// Follows the bytes of each tick.
#[derive(Clone, Debug)]
pub struct Recurrence {
    horizon: Window,
    /// The ticks before the horizon.
    calm: Window,
    tick: u64,
    now: u64,
    /// Bytes of a horizon that were more than all of the calm before, and when.
    surprises: VecDeque<(u64, u64)>,
}

#[derive(Clone, Debug)]
struct Window {
    ticks: usize,
    bytes: VecDeque<u64>,
    sum: u64,
}

impl Window {
    fn new(ticks: u32) -> Window {
        Window { ticks: ticks.max(1) as usize, bytes: VecDeque::new(), sum: 0 }
    }
    /// Adds a tick; returns the one that leaves.
    fn push(&mut self, bytes: u64) -> Option<u64> {
        self.bytes.push_back(bytes);
        self.sum += bytes;
        let old = if self.bytes.len() > self.ticks { self.bytes.pop_front() } else { None };
        self.sum -= old.unwrap_or(0);
        old
    }
}

impl Recurrence {
    /// For a horizon and a time of calm, in ticks.
    pub fn new(horizon_ticks: u32, calm_ticks: u32) -> Recurrence {
        Recurrence {
            horizon: Window::new(horizon_ticks),
            calm: Window::new(calm_ticks),
            tick: 0,
            now: 0,
            surprises: VecDeque::new(),
        }
    }

    /// A finished tick.
    pub fn observe(&mut self, bytes: u64) {
        self.tick += 1;
        if let Some(old) = self.horizon.push(bytes) {
            self.calm.push(old);
        }
        if self.horizon.sum > self.calm.sum {
            self.now = self.now.max(self.horizon.sum);
        } else if self.now > 0 {
            self.surprises.push_back((std::mem::take(&mut self.now), self.tick));
            let tick = self.tick;
            self.surprises.retain(|s| tick - s.1 < KEPT_TICKS);
            if self.surprises.len() > KEPT {
                self.surprises.pop_front();
            }
        }
    }

    /// The most that is worth waiting for: what came of late, or of what came as a surprise the second largest.
    pub fn credible_bytes(&self) -> u64 {
        let (mut first, mut second) = (self.now, 0);
        for (bytes, _) in &self.surprises {
            (first, second) = if *bytes > first { (*bytes, first) } else { (first, second.max(*bytes)) };
        }
        second.max(self.horizon.sum + self.calm.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(bursts: &[u64], calm: usize) -> u64 {
        let mut r = Recurrence::new(4, 40);
        for burst in bursts {
            (0..6).for_each(|_| r.observe(burst / 4));
            (0..calm).for_each(|_| r.observe(0));
        }
        r.credible_bytes()
    }

    #[test]
    fn a_flood_that_stopped_is_forgotten_and_bursts_that_return_are_not() {
        assert_eq!(after(&[4000], 10), 6000);
        assert_eq!(after(&[4000], 60), 0);
        assert_eq!(after(&[4000, 4000], 60), 4000);
        assert_eq!(after(&[4000, 1000, 2000], 60), 2000);
        assert_eq!(after(&[4000, 4000], 13_000), 0);
        let mut r = Recurrence::new(4, 40);
        (0..100).for_each(|_| r.observe(7));
        assert_eq!(r.credible_bytes(), 44 * 7);
    }

    #[test]
    fn is_bounded() {
        let mut r = Recurrence::new(1, 2);
        (0..10_000u64).for_each(|n| r.observe(if n % 5 == 0 { n } else { 0 }));
        assert!(r.surprises.len() <= KEPT);
    }
}
