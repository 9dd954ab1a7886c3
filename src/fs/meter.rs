//! How many requests, and how long they took.

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Kinds of request that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Write = 0,
    Read = 1,
    Fsync = 2,
}

const SHARDS: usize = 4;

/// Counts and latencies of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    pub count: u64,
    pub bytes: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
}

/// Steps of a [`Latency`]: four to the octave, from 1 us to 2^15 s.
const STEPS: usize = 4 * 35;

/// Service times in 560 bytes: exact within a fifth, no lock.
pub struct Latency([AtomicU32; STEPS]);

impl Default for Latency {
    fn default() -> Self {
        Latency([const { AtomicU32::new(0) }; STEPS])
    }
}

impl Latency {
    /// Counts one.
    pub fn note(&self, took_ns: u64) {
        let us = (took_ns / 1000).max(1);
        let octave = us.ilog2() as usize;
        // The two bits below the highest choose the quarter.
        let quarter = ((us << 2) >> octave) as usize & 3;
        self.0[(4 * octave + quarter).min(STEPS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// The upper end of the step that holds this quantile; 0 when nothing was counted.
    pub fn quantile_us(&self, q: f64) -> u64 {
        let counts: Vec<u64> = self.0.iter().map(|n| n.load(Ordering::Relaxed) as u64).collect();
        let wanted = (q * counts.iter().sum::<u64>() as f64).ceil() as u64;
        let mut below = 0;
        for (i, n) in counts.iter().enumerate() {
            below += n;
            if *n > 0 && below >= wanted {
                return ((1u64 << (i / 4)) * (5 + i as u64 % 4)).div_ceil(4);
            }
        }
        0
    }
}

struct One {
    count: AtomicU64,
    bytes: AtomicU64,
    took_ns: AtomicU64,
    shards: [Mutex<Histogram<u32>>; SHARDS],
}

/// All meters.
pub struct Meter {
    verbs: [One; 3],
    asked: [Apart; SHARDS],
}

/// A counter on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Apart(AtomicU64);

impl Default for Meter {
    fn default() -> Self {
        // 1 ns to 100 s in three significant digits: bounds that the crate accepts.
        let histogram = || {
            Mutex::new(Histogram::new_with_bounds(1, 100_000_000_000, 2).expect("constant bounds are valid"))
        };
        let one = || One {
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            took_ns: AtomicU64::new(0),
            shards: std::array::from_fn(|_| histogram()),
        };
        Meter { verbs: std::array::from_fn(|_| one()), asked: Default::default() }
    }
}

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    MINE.with(|m| *m)
}

impl Meter {
    /// Notes that something was asked, whatever it is.
    pub fn ask(&self) {
        self.asked[shard()].0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often since the start.
    pub fn asked(&self) -> u64 {
        self.asked.iter().map(|n| n.0.load(Ordering::Relaxed)).sum()
    }

    /// Counts one request.
    pub fn note(&self, verb: Verb, bytes: u64, took_ns: u64) {
        let o = &self.verbs[verb as usize];
        o.count.fetch_add(1, Ordering::Relaxed);
        o.bytes.fetch_add(bytes, Ordering::Relaxed);
        o.took_ns.fetch_add(took_ns, Ordering::Relaxed);
        o.shards[shard()].lock().saturating_record(took_ns.max(1));
    }

    /// All service times so far, nanoseconds, and their exact sum.
    pub fn times(&self, verb: Verb) -> (Histogram<u32>, u64) {
        let o = &self.verbs[verb as usize];
        let sum_ns = o.took_ns.load(Ordering::Relaxed);
        let mut all = o.shards[0].lock().clone();
        for s in &o.shards[1..] {
            // Same bounds, so adding cannot fail.
            if let Err(e) = all.add(&*s.lock()) {
                log::error!("adding latency histograms failed: {e:?}");
            }
        }
        (all, sum_ns)
    }

    /// What was counted so far.
    pub fn read(&self, verb: Verb) -> Reading {
        let o = &self.verbs[verb as usize];
        let (all, _) = self.times(verb);
        let us = |q| all.value_at_quantile(q) / 1000;
        Reading {
            count: o.count.load(Ordering::Relaxed),
            bytes: o.bytes.load(Ordering::Relaxed),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_a_fifth() {
        let l = Latency::default();
        assert_eq!(l.quantile_us(0.99), 0);
        for (us, n) in [(10, 980), (1000, 15), (77_000, 5)] {
            (0..n).for_each(|_| l.note(us * 1000));
        }
        for (q, us) in [(0.5, 10.0), (0.99, 1000.0), (0.999, 77_000.0)] {
            let said = l.quantile_us(q) as f64;
            assert!(said >= us && said <= us * 1.25, "{q}: {said}");
        }
        for ns in [0, 999, u64::MAX] {
            l.note(ns);
        }
        assert!(l.quantile_us(1.0) > 1 << 34);
    }

    #[test]
    fn times_are_counted_and_summed() {
        let m = Meter::default();
        m.note(Verb::Write, 5, 2_000);
        m.note(Verb::Write, 5, 4_000);
        let (times, sum_ns) = m.times(Verb::Write);
        assert_eq!((times.len(), sum_ns, m.read(Verb::Write).bytes), (2, 6_000, 10));
        assert_eq!(m.times(Verb::Read).1, 0);
    }
}
