//! "markov": the histogram of what followed in situations like the present one. The situation is the
//! class of the last horizon's bytes, how the last tick compares, and how long it has been idle or busy;
//! rare situations back off to coarser ones, as in an n-gram model of text.

use super::{Histogram, Weight};
use crate::predict::{CLASSES, Distribution, Levels, Model, TickFeatures, class_of};
use std::collections::{HashMap, VecDeque};

const LEVELS: usize = 4;
const HALF_LIFE_TICKS: f32 = 6000.0;
/// Observations the coarser level is worth; neighbouring ticks share most of their outcome.
const STRENGTH: [f32; LEVELS] = [1.0, 5.0, 10.0, 20.0];
/// Situations kept; beyond it the least seen go.
const SITUATIONS_MAX: usize = 3000;

type Key = (u8, u32);

/// The model.
pub struct Context {
    tables: HashMap<Key, Histogram>,
    pending: VecDeque<[Key; LEVELS]>,
    weight: Weight,
    levels: Levels,
    situations_max: usize,
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::sized(SITUATIONS_MAX)
    }

    /// With room for so many situations, about 170 bytes each.
    pub fn sized(situations_max: usize) -> Self {
        Context {
            situations_max,
            tables: HashMap::new(),
            pending: VecDeque::new(),
            weight: Weight::with_half_life(HALF_LIFE_TICKS),
            levels: Levels::default(),
        }
    }

    /// Situations known.
    pub fn situations(&self) -> usize {
        self.tables.len()
    }

    fn make_room(&mut self) {
        let mut totals: Vec<f32> = self.tables.values().map(|h| h.total).collect();
        let middle = totals.len() / 2;
        let cut = *totals.select_nth_unstable_by(middle, f32::total_cmp).1;
        self.tables.retain(|k, h| k.0 == 0 || h.total > cut);
    }
}

/// The present situation from coarse to fine.
fn situation(tick: &TickFeatures) -> [Key; LEVELS] {
    let recent = class_of(tick.horizon_bytes as f64) as u32;
    let last = class_of(tick.bytes as f64) as u32;
    // The last tick against an even share of the horizon.
    let even = class_of(tick.horizon_bytes as f64 / tick.horizon_ticks as f64) as u32;
    let pace = if last == 0 { 0 } else { (last + 12).saturating_sub(even).clamp(6, 22) / 4 };
    let time = if tick.idle_ticks > 0 {
        (tick.idle_ticks.min(1 << 14).ilog2() * 2 + idle_half(tick.idle_ticks)).min(31)
    } else {
        32 + tick.run_ticks.clamp(1, 1 << 10).ilog2()
    };
    [(0, 0), (1, recent), (2, recent << 8 | pace), (3, recent << 16 | pace << 8 | time)]
}

/// The second half of an octave?
fn idle_half(n: u32) -> u32 {
    let n = n.min(1 << 14);
    (n >= 2 && (n >> (n.ilog2() - 1)) & 1 == 1) as u32
}

impl Model for Context {
    fn name(&self) -> &str {
        "markov"
    }

    fn observe(&mut self, tick: &TickFeatures) {
        if let Some(factor) = self.weight.advance() {
            self.tables.values_mut().for_each(|h| h.scale(factor));
            self.tables.retain(|_, h| h.total > 1e-6);
        }
        if self.pending.len() >= tick.horizon_ticks as usize
            && let Some(keys) = self.pending.pop_front()
        {
            let outcome = tick.horizon_bytes as f64;
            self.levels.observe(outcome);
            for key in keys {
                self.tables.entry(key).or_default().add(class_of(outcome), self.weight.now());
            }
            if self.tables.len() > self.situations_max {
                self.make_room();
            }
        }
        self.pending.push_back(situation(tick));
    }

    fn forecast(&mut self) -> Distribution {
        let Some(keys) = self.pending.back() else { return Distribution::point(0.0) };
        let mut probs = [0.0; CLASSES];
        probs[0] = 1.0;
        for (key, strength) in keys.iter().zip(STRENGTH) {
            if let Some(h) = self.tables.get(key) {
                h.blend(&mut probs, strength * self.weight.now());
            }
        }
        Distribution::from_weights_at(&probs, &self.levels)
    }
}
