//! "blend": one histogram from those of several models, each weighted by how likely it made what then came.
//! Bayesian mixing with a fixed share (Herbster & Warmuth 1998): for the log loss its regret against the best
//! model of each stretch of time is bounded. Unlike a choice among quantiles it keeps a little of every
//! warning, which the .99 quantile lives on.

use super::{Context, Renewal, Sequence, SlidingQuantile};
use crate::predict::{CLASSES, Distribution, Levels, Model, TickFeatures, class_of};
use std::collections::VecDeque;

const PARTS: usize = 5;
const SHARE: f32 = 0.002;
/// Mass every model is taken to keep for any class.
const SMOOTHING: f32 = 1e-3;
const RATE: f32 = 1.0;

type Said = [[f32; CLASSES]; PARTS];

/// The mixture.
pub struct Blend {
    parts: [Box<dyn Model>; PARTS],
    weights: [f32; PARTS],
    pending: VecDeque<Said>,
    levels: Levels,
}

impl Blend {
    /// `second`: ticks in one.
    pub fn new(second: usize) -> Self {
        Blend {
            parts: [
                Box::new(SlidingQuantile::new("", 10 * second)),
                Box::new(SlidingQuantile::new("", 60 * second)),
                Box::new(Context::new()),
                Box::new(Renewal::new()),
                Box::new(Sequence::new()),
            ],
            weights: [1.0 / PARTS as f32; PARTS],
            pending: VecDeque::new(),
            levels: Levels::default(),
        }
    }

    fn learn(&mut self, said: &Said, class: usize, horizon_ticks: u32) {
        // Outcomes of neighbouring ticks overlap: together they are worth about one.
        let rate = RATE / (horizon_ticks as f32).sqrt();
        for (w, probs) in self.weights.iter_mut().zip(said) {
            *w *= (probs[class] + SMOOTHING).powf(rate);
        }
        let sum: f32 = self.weights.iter().sum();
        let share = SHARE / PARTS as f32;
        self.weights.iter_mut().for_each(|w| *w = (1.0 - SHARE) * *w / sum + share);
    }
}

impl Model for Blend {
    fn name(&self) -> &str {
        "blend"
    }

    fn observe(&mut self, tick: &TickFeatures) {
        if self.pending.len() >= tick.horizon_ticks as usize
            && let Some(said) = self.pending.pop_front()
        {
            let outcome = tick.horizon_bytes as f64;
            self.levels.observe(outcome);
            self.learn(&said, class_of(outcome), tick.horizon_ticks);
        }
        let mut said = [[0.0; CLASSES]; PARTS];
        for (part, probs) in self.parts.iter_mut().zip(&mut said) {
            part.observe(tick);
            *probs = part.forecast().probs;
        }
        self.pending.push_back(said);
    }

    fn forecast(&mut self) -> Distribution {
        let Some(said) = self.pending.back() else { return Distribution::point(0.0) };
        let mut probs = [0.0; CLASSES];
        for (w, part) in self.weights.iter().zip(said) {
            probs.iter_mut().zip(part).for_each(|(p, q)| *p += w * q);
        }
        Distribution::from_weights_at(&probs, &self.levels)
    }
}
