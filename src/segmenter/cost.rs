//! The newsvendor: a write that waits for a segment against memory held idle (PREDICTION.md section 3).

use super::outrun::Outrun;
use crate::predict::Distribution;
use std::collections::{BTreeMap, VecDeque};

const MIB: f64 = 1048576.0;
/// Ready segments of one owner, at most.
pub const COUNT_MAX: u32 = 8;
/// Part of the speed at which segments were made that is counted on.
const SURELY: f64 = 0.5;

/// What allocations took, by class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocations {
    /// The last ones, nanoseconds, and their median, milliseconds: asked for far more often than it changes.
    classes: BTreeMap<u64, (VecDeque<u64>, f64)>,
}

impl Allocations {
    const KEPT: usize = 31;
    /// Assumed before any was measured: 8 ms and 1 ms a MiB.
    const BASE_MS: f64 = 8.0;

    /// Notes one, nanoseconds.
    pub fn observe(&mut self, class_bytes: u64, ns: u64) {
        let (kept, median) = self.classes.entry(class_bytes).or_default();
        if kept.len() == Self::KEPT {
            kept.pop_front();
        }
        kept.push_back(ns);
        *median = median_ms(kept);
    }

    /// Median of the last ones, milliseconds. A class without any goes by its nearest neighbour, moved by
    /// 1 ms a MiB.
    pub fn p50_ms(&self, class_bytes: u64) -> f64 {
        let mib = class_bytes as f64 / MIB;
        if let Some(own) = self.classes.get(&class_bytes) {
            return own.1;
        }
        let near = self.classes.iter().min_by_key(|(class, _)| class.abs_diff(class_bytes));
        match near {
            Some((class, (_, median))) => (median + mib - *class as f64 / MIB).max(0.05),
            None => Self::BASE_MS + mib,
        }
    }
}

fn median_ms(kept: &VecDeque<u64>) -> f64 {
    let mut all: Vec<u64> = kept.iter().copied().collect();
    all.sort_unstable();
    (all[all.len() / 2] as f64 / 1e6).max(0.001)
}

/// What waiting and idling cost. Only the ratio of the first two matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// Of a millisecond that a write waits for a segment.
    pub stall_per_ms: f64,
    /// Of a MiB held ready for a second.
    pub idle_per_mib_s: f64,
    pub allocations: Allocations,
    pub outrun: Outrun,
}

impl Default for Costs {
    /// 1 ms of stall is worth 10 MiB seconds.
    fn default() -> Self {
        Costs {
            stall_per_ms: 1.0,
            idle_per_mib_s: 0.1,
            allocations: Allocations::default(),
            outrun: Outrun::default(),
        }
    }
}

impl Costs {
    /// Most bytes of a burst of `bytes` in a horizon that segments of this class must be held ready for: by what writes outran
    /// their making, one for the segment whose making has only begun, and one for what the last is not filled with.
    pub fn worth_holding(&self, class_bytes: u64, bytes: f64, horizon_ns: u64) -> f64 {
        let even = bytes - self.rate(class_bytes) * horizon_ns as f64 / 1e9;
        self.outrun.bytes(class_bytes).max(even) + 2.0 * class_bytes as f64
    }

    /// The largest class, from the smallest on, whose making takes at most half as long again as that of the smallest.
    pub fn swift_class(&self, smallest: u64, largest: u64) -> u64 {
        let enough = 1.5 * self.allocations.p50_ms(smallest);
        let mut class = smallest;
        while 2 * class <= largest && self.allocations.p50_ms(2 * class) <= enough {
            class *= 2;
        }
        class
    }

    /// Bytes of segments of a class that are surely made in a second, while others are asked for as well.
    fn rate(&self, class_bytes: u64) -> f64 {
        SURELY * class_bytes as f64 / (self.allocations.p50_ms(class_bytes) / 1000.0)
    }

    /// Notes what was appended since the last call, and when.
    pub fn observe(&mut self, now_ns: u64, bytes: u64) {
        let rates = std::array::from_fn(|i| self.rate(Outrun::class_bytes(i)));
        self.outrun.observe(now_ns, bytes, &rates);
    }
}

/// Expected cost of a horizon with `held` bytes at hand when further segments have `segment_bytes`.
pub fn cost(demand: &Distribution, held: u64, segment_bytes: u64, horizon_ns: u64, costs: &Costs) -> f64 {
    let stall = costs.stall_per_ms * costs.allocations.p50_ms(segment_bytes);
    let idle = costs.idle_per_mib_s * horizon_ns as f64 / 1e9 / MIB;
    let (held, segment) = (held as f64, segment_bytes.max(1) as f64);
    demand
        .probs
        .iter()
        .zip(&demand.values)
        .filter(|(p, _)| **p > 0.0)
        .map(|(p, d)| {
            let short = (*d as f64 - held).max(0.0);
            let over = (held - *d as f64).max(0.0);
            *p as f64 * (stall * (short / segment).ceil() + idle * over)
        })
        .sum()
}

/// The count of segments, 0 to 8, with the least expected cost beside `room` bytes at hand.
pub fn best_count(
    demand: &Distribution,
    room: u64,
    segment_bytes: u64,
    horizon_ns: u64,
    costs: &Costs,
) -> u32 {
    let at = |n: u32| cost(demand, room + n as u64 * segment_bytes, segment_bytes, horizon_ns, costs);
    // Convex in n, so the first rise ends the search.
    let mut best = (0, at(0));
    for n in 1..=COUNT_MAX {
        let next = at(n);
        if next >= best.1 {
            break;
        }
        best = (n, next);
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::CLASSES;

    #[test]
    fn medians_and_neighbours() {
        let mut a = Allocations::default();
        assert_eq!(a.p50_ms(1 << 20), 9.0);
        [3, 1, 2].iter().for_each(|ms| a.observe(1 << 20, ms * 1_000_000));
        assert_eq!((a.p50_ms(1 << 20), a.p50_ms(4 << 20)), (2.0, 5.0));
        (0..100).for_each(|_| a.observe(1 << 20, 7_000_000));
        assert_eq!(a.p50_ms(1 << 20), 7.0);
    }

    #[test]
    fn the_critical_fractile() {
        // k = 9 ms / MiB, c_o H = 0.1: reserve while P(more) > 1 / 91.
        let two = |p: f32| {
            let mut w = [0.0; CLASSES];
            (w[0], w[21]) = (1.0 - p, p);
            let mut d = Distribution::from_weights(&w);
            d.values[21] = 1048576.0;
            d
        };
        let n = |p| best_count(&two(p), 0, 1 << 20, 1_000_000_000, &Costs::default());
        assert_eq!((n(0.010), n(0.012)), (0, 1));
    }

    #[test]
    fn argmin_is_that_of_brute_force() {
        let mut x = 7u64;
        let mut next = move || {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) as u32
        };
        for _ in 0..3000 {
            let mut w = [0.0; CLASSES];
            (0..1 + next() % 6).for_each(|_| w[next() as usize % CLASSES] += (1 + next() % 1000) as f32);
            let d = Distribution::from_weights(&w);
            let (room, class) = (next() as u64 % (8 << 20), (256 << 10) << (next() % 7));
            let costs = Costs { idle_per_mib_s: 0.001 * (1 + next() % 300) as f64, ..Costs::default() };
            let of = |n: u32| {
                let (s, held) = (class as f64, room as f64 + n as f64 * class as f64);
                (0..CLASSES)
                    .map(|j| {
                        let (p, d) = (d.probs[j] as f64, d.values[j] as f64);
                        p * (costs.allocations.p50_ms(class) * ((d - held).max(0.0) / s).ceil()
                            + costs.idle_per_mib_s * (held - d).max(0.0) / MIB)
                    })
                    .sum::<f64>()
            };
            let best = (0..=8).map(of).fold(f64::INFINITY, f64::min);
            let got = best_count(&d, room, class, 1_000_000_000, &costs);
            assert!(of(got) <= best * (1.0 + 1e-9) + 1e-9, "{got}");
        }
    }
}
