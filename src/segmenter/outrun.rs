//! How far writes outran the making of segments. Segments are made while a burst goes on, so a reserve need not hold all
//! of the burst: only what arrives faster than they are made. A leaky bucket for each class says how much that was.

use std::collections::VecDeque;

/// Classes followed: 256 KiB, doubled each.
const CLASSES: usize = 9;
const SMALLEST: u64 = 256 << 10;
/// Peaks are kept for ten minutes, in slots.
const SLOT_NS: u64 = 10_000_000_000;
const SLOTS: usize = 60;
/// Until so much was seen all of a forecast is reserved.
const SEEN_NS_MIN: u64 = 60_000_000_000;

/// The buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outrun {
    levels: [f64; CLASSES],
    peaks: VecDeque<[f64; CLASSES]>,
    slot: u64,
    first_ns: Option<u64>,
    last_ns: u64,
}

impl Outrun {
    /// The class of a bucket.
    pub fn class_bytes(bucket: usize) -> u64 {
        SMALLEST << bucket
    }

    /// Bytes were appended since the last call; `rates` says how many bytes of each class are made in a second.
    pub fn observe(&mut self, now_ns: u64, bytes: u64, rates: &[f64; CLASSES]) {
        self.first_ns.get_or_insert(now_ns);
        let seconds = now_ns.saturating_sub(self.last_ns) as f64 / 1e9;
        self.last_ns = self.last_ns.max(now_ns);
        let slot = now_ns / SLOT_NS;
        if self.peaks.is_empty() || slot > self.slot {
            self.slot = slot;
            self.peaks.push_back([0.0; CLASSES]);
            if self.peaks.len() > SLOTS {
                self.peaks.pop_front();
            }
        }
        let Some(peak) = self.peaks.back_mut() else { return };
        for ((level, peak), rate) in self.levels.iter_mut().zip(peak).zip(rates) {
            *level = (*level - rate * seconds).max(0.0) + bytes as f64;
            *peak = peak.max(*level);
        }
    }

    /// The most by which writes outran segments of this class twice in ten minutes (in two different slots of ten seconds), or do now;
    /// bytes. Infinite while too little was seen.
    pub fn bytes(&self, class_bytes: u64) -> f64 {
        if self.first_ns.is_none_or(|first| self.last_ns.saturating_sub(first) < SEEN_NS_MIN) {
            return f64::INFINITY;
        }
        let i = (class_bytes / SMALLEST).max(1).ilog2() as usize;
        let i = i.min(CLASSES - 1);
        let (mut first, mut second) = (0.0f64, 0.0f64);
        for peak in self.peaks.iter().map(|p| p[i]) {
            (first, second) = if peak > first { (peak, first) } else { (first, second.max(peak)) };
        }
        // What goes on is taken to go on as long again.
        second.max(2.0 * self.levels[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1048576.0;
    const TICK: u64 = 50_000_000;

    /// Segments of every class are made at 100 MiB a second.
    fn after(seconds: u64, written: impl Fn(u64) -> f64) -> Outrun {
        let mut o = Outrun::default();
        for tick in 0..seconds * 20 {
            o.observe(tick * TICK, written(tick) as u64, &[100.0 * MIB; CLASSES]);
        }
        o
    }

    #[test]
    fn what_is_made_as_fast_as_it_is_written_need_not_be_held() {
        assert_eq!(after(50, |_| MIB).bytes(SMALLEST), f64::INFINITY);
        assert_eq!((after(120, |_| 4.0 * MIB).bytes(SMALLEST) / MIB).round(), 8.0);
        // 20 MiB at once each 15 s: what the next ticks make good was ahead of the making all the same.
        let bursts = after(120, |t| if t % 300 == 0 { 20.0 * MIB } else { 0.0 });
        assert_eq!((bursts.bytes(1 << 20) / MIB).round(), 20.0);
    }

    #[test]
    fn once_is_not_enough_and_ten_minutes_later_it_is_forgotten() {
        assert_eq!(after(120, |t| if t == 600 { 50.0 * MIB } else { 0.0 }).bytes(1 << 20), 0.0);
        let twice = |t: u64| if t == 600 || t == 1200 { 50.0 * MIB } else { 0.0 };
        assert_eq!((after(120, twice).bytes(1 << 20) / MIB).round(), 50.0);
        assert_eq!(after(700, twice).bytes(1 << 20), 0.0);
        // What goes on now is taken to bring as much again.
        let flood = after(120, |t| if t >= 2380 { 10.0 * MIB } else { 0.0 });
        assert!(flood.bytes(1 << 20) > 100.0 * MIB);
    }
}
