//! Histograms of what followed in situations like the present one, told from coarse to fine. Where a fine situation was
//! seen too rarely the coarser one speaks, as in an n-gram model of text (Katz 1987).

use super::{Histogram, Weight};
use crate::predict::{CLASSES, Distribution, Levels, TickFeatures, class_of};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A situation: its level, 0 for the coarsest, and what is known at it.
pub type Key<T> = (u8, T);

/// The tables.
pub struct BackOff<T, const LEVELS: usize> {
    tables: HashMap<Key<T>, Histogram>,
    pending: VecDeque<[Key<T>; LEVELS]>,
    weight: Weight,
    levels: Levels,
    situations_max: usize,
}

impl<T: Copy + Eq + Hash, const LEVELS: usize> BackOff<T, LEVELS> {
    /// What was seen is forgotten with this half-life; of more situations (about 170 bytes each) the least seen go.
    pub fn new(half_life_ticks: f32, situations_max: usize) -> Self {
        BackOff {
            tables: HashMap::new(),
            pending: VecDeque::new(),
            weight: Weight::with_half_life(half_life_ticks),
            levels: Levels::default(),
            situations_max,
        }
    }

    /// Situations known.
    pub fn situations(&self) -> usize {
        self.tables.len()
    }

    /// Learns what followed one horizon ago; `now` is the present situation, level by level.
    pub fn observe(&mut self, tick: &TickFeatures, now: [Key<T>; LEVELS]) {
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
        self.pending.push_back(now);
    }

    /// What follows now; `strength`: observations that the coarser level is worth at each.
    pub fn forecast(&self, strength: [f32; LEVELS]) -> Distribution {
        let Some(keys) = self.pending.back() else { return Distribution::point(0.0) };
        let mut probs = [0.0; CLASSES];
        probs[0] = 1.0;
        for (key, strength) in keys.iter().zip(strength) {
            if let Some(h) = self.tables.get(key) {
                h.blend(&mut probs, strength * self.weight.now());
            }
        }
        Distribution::from_weights_at(&probs, &self.levels)
    }

    fn make_room(&mut self) {
        let mut totals: Vec<f32> = self.tables.values().map(|h| h.total).collect();
        let middle = totals.len() / 2;
        let cut = *totals.select_nth_unstable_by(middle, f32::total_cmp).1;
        self.tables.retain(|k, h| k.0 == 0 || h.total > cut);
    }
}
