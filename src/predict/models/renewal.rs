//! "renewal": the histogram of what followed at this time since the last burst began. Knows *when*,
//! where bursts are periodic (checkpoints, timers), which levels and averages cannot.

use super::{Histogram, Weight};
use crate::predict::{CLASSES, Distribution, Levels, Model, TickFeatures, class_of};
use std::collections::VecDeque;

/// Linear to 16 ticks, then 8 a doubling to 2^14 ticks (13 minutes), then one.
const PHASES: usize = 16 + 80 + 1;
const HALF_LIFE_TICKS: f32 = 12_000.0;
/// Ticks without a burst's worth before the next one counts as new.
const APART_TICKS: u32 = 4;
/// A burst's tick against the decaying largest tick.
const BURST_FRACTION: f64 = 0.1;
const BURST_BYTES_MIN: f64 = 4096.0;
const LARGEST_DECAY: f64 = 0.9997;

/// The model.
pub struct Renewal {
    phases: Vec<Histogram>,
    coarse: Vec<Histogram>,
    pending: VecDeque<usize>,
    weight: Weight,
    levels: Levels,
    largest: f64,
    since_start: u32,
    since_burst: u32,
}

impl Default for Renewal {
    fn default() -> Self {
        Self::new()
    }
}

impl Renewal {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Renewal {
            phases: vec![Histogram::default(); PHASES],
            coarse: vec![Histogram::default(); PHASES / 4 + 1],
            pending: VecDeque::new(),
            weight: Weight::with_half_life(HALF_LIFE_TICKS),
            levels: Levels::default(),
            largest: 0.0,
            since_start: 0,
            since_burst: u32::MAX / 2,
        }
    }

    fn follow_bursts(&mut self, bytes: f64) {
        self.since_start = self.since_start.saturating_add(1);
        self.since_burst = self.since_burst.saturating_add(1);
        self.largest = (self.largest * LARGEST_DECAY).max(bytes);
        if bytes >= (BURST_FRACTION * self.largest).max(BURST_BYTES_MIN) {
            if self.since_burst > APART_TICKS {
                self.since_start = 0;
            }
            self.since_burst = 0;
        }
    }
}

fn phase(ticks: u32) -> usize {
    if ticks < 16 {
        return ticks as usize;
    }
    let octave = ticks.ilog2();
    let part = (ticks >> (octave - 3)) & 7;
    (16 + (octave as usize - 4) * 8 + part as usize).min(PHASES - 1)
}

impl Model for Renewal {
    fn name(&self) -> &str {
        "renewal"
    }

    fn observe(&mut self, tick: &TickFeatures) {
        if let Some(factor) = self.weight.advance() {
            self.phases.iter_mut().chain(&mut self.coarse).for_each(|h| h.scale(factor));
        }
        if self.pending.len() >= tick.horizon_ticks as usize
            && let Some(then) = self.pending.pop_front()
        {
            let outcome = tick.horizon_bytes as f64;
            self.levels.observe(outcome);
            self.phases[then].add(class_of(outcome), self.weight.now());
            self.coarse[then / 4].add(class_of(outcome), self.weight.now());
        }
        self.follow_bursts(tick.bytes as f64);
        self.pending.push_back(phase(self.since_start));
    }

    fn forecast(&mut self) -> Distribution {
        let Some(&now) = self.pending.back() else { return Distribution::point(0.0) };
        let mut all = Histogram::default();
        for h in &self.coarse {
            all.total += h.total;
            all.counts.iter_mut().zip(&h.counts).for_each(|(a, c)| *a += c);
        }
        let mut probs = [0.0; CLASSES];
        probs[0] = 1.0;
        let one = self.weight.now();
        all.blend(&mut probs, one);
        self.coarse[now / 4].blend(&mut probs, 4.0 * one);
        self.phases[now].blend(&mut probs, 2.0 * one);
        Distribution::from_weights_at(&probs, &self.levels)
    }
}
