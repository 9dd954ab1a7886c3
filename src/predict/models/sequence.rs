//! "sequence": the histogram of what followed at this time since this program began to write. Knows what a
//! program does once it started, and what starts after it, where jobs run one after another.

use super::{Histogram, Weight, doubt};
use crate::predict::{CLASSES, Distribution, Levels, Model, TickFeatures, class_of};
use std::collections::{HashMap, VecDeque};

const LEVELS: usize = 5;
const HALF_LIFE_TICKS: f32 = 12_000.0;
/// Observations the coarser level is worth.
const STRENGTH: [f32; LEVELS] = [1.0, 5.0, 5.0, 10.0, 10.0];
/// Situations kept, about 170 bytes each; beyond it the least seen go.
const SITUATIONS_MAX: usize = 3000;

type Key = (u8, u32, u32, u8);

/// The model.
pub struct Sequence {
    tables: HashMap<Key, Histogram>,
    pending: VecDeque<[Key; LEVELS]>,
    weight: Weight,
    levels: Levels,
    doubt: f32,
}

impl Default for Sequence {
    fn default() -> Self {
        Self::new()
    }
}

impl Sequence {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Sequence {
            tables: HashMap::new(),
            pending: VecDeque::new(),
            weight: Weight::with_half_life(HALF_LIFE_TICKS),
            levels: Levels::default(),
            doubt: 1.0,
        }
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
    let o = tick.onset;
    let recent = class_of(tick.horizon_bytes as f64) as u8;
    let (coarse, fine) = (phase(o.ticks, 1), phase(o.ticks, 4));
    [
        (0, 0, 0, 0),
        (1, 0, 0, recent),
        (2, o.program, 0, coarse),
        (3, o.program, recent as u32, coarse),
        (4, o.program, recent as u32, fine),
    ]
}

/// Logarithmic time, `per_octave` steps a doubling.
fn phase(ticks: u32, per_octave: u32) -> u8 {
    ((ticks.min(1 << 14) as f32 + 1.0).log2() * per_octave as f32) as u8
}

impl Model for Sequence {
    fn name(&self) -> &str {
        "sequence"
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
            if self.tables.len() > SITUATIONS_MAX {
                self.make_room();
            }
        }
        self.doubt = doubt(tick.horizon_ticks);
        self.pending.push_back(situation(tick));
    }

    fn forecast(&mut self) -> Distribution {
        let Some(keys) = self.pending.back() else { return Distribution::point(0.0) };
        let mut probs = [0.0; CLASSES];
        probs[0] = 1.0;
        for (key, strength) in keys.iter().zip(STRENGTH) {
            if let Some(h) = self.tables.get(key) {
                h.blend(&mut probs, strength * self.doubt * self.weight.now());
            }
        }
        Distribution::from_weights_at(&probs, &self.levels)
    }
}
