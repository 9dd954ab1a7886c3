//! How many requests, and how long they took.

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

struct One {
    count: AtomicU64,
    bytes: AtomicU64,
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
        o.shards[shard()].lock().saturating_record(took_ns.max(1));
    }

    /// What was counted so far.
    pub fn read(&self, verb: Verb) -> Reading {
        let o = &self.verbs[verb as usize];
        let mut all = o.shards[0].lock().clone();
        for s in &o.shards[1..] {
            // Same bounds, so adding cannot fail.
            if let Err(e) = all.add(&*s.lock()) {
                log::error!("adding latency histograms failed: {e:?}");
            }
        }
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
