//! A spread around a point forecast, learned from its own past errors: the decayed histogram of
//! log2(outcome / forecast), and how often nothing came at all (PREDICTION.md section 2, "conformal").

use super::Weight;
use crate::predict::{CLASSES, Distribution, TickFeatures, class_of};
use std::collections::VecDeque;

/// Quarter octaves from -24 to +24 octaves.
const BINS: usize = 193;
const PER_OCTAVE: f64 = 4.0;
const MIDDLE: f64 = 96.0;
/// Added to forecasts so that a forecast of nothing has a logarithm.
const FLOOR_BYTES: f64 = 64.0;
const HALF_LIFE_TICKS: f32 = 600.0;

/// Residuals of one point forecaster, delayed by the horizon.
#[derive(Clone, Debug)]
pub struct Conformal {
    pending: VecDeque<f64>,
    bins: Box<[f32; BINS]>,
    zero: f32,
    weight: Weight,
}

impl Default for Conformal {
    fn default() -> Self {
        Conformal {
            pending: VecDeque::new(),
            bins: Box::new([0.0; BINS]),
            zero: 0.0,
            weight: Weight::with_half_life(HALF_LIFE_TICKS),
        }
    }
}

impl Conformal {
    /// Judges the forecast issued a horizon ago, then remembers `point`, the one made now (bytes over
    /// the next horizon).
    pub fn observe(&mut self, tick: &TickFeatures, point: f64) {
        if let Some(factor) = self.weight.advance() {
            self.bins.iter_mut().for_each(|b| *b *= factor);
            self.zero *= factor;
        }
        if self.pending.len() >= tick.horizon_ticks as usize
            && let Some(then) = self.pending.pop_front()
        {
            let outcome = tick.horizon_bytes as f64;
            if outcome == 0.0 {
                self.zero += self.weight.now();
            } else {
                self.bins[bin((outcome / (then + FLOOR_BYTES)).log2())] += self.weight.now();
            }
        }
        self.pending.push_back(point.max(0.0));
    }

    /// The distribution around the newest point.
    pub fn distribution(&self) -> Distribution {
        let point = self.pending.back().copied().unwrap_or(0.0) + FLOOR_BYTES;
        let mut weights = [0.0; CLASSES];
        weights[0] = self.zero;
        for (i, w) in self.bins.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            weights[class_of(point * 2f64.powf((i as f64 - MIDDLE) / PER_OCTAVE)).max(1)] += w;
        }
        if weights.iter().all(|w| *w == 0.0) {
            return Distribution::point(point - FLOOR_BYTES);
        }
        Distribution::from_weights(&weights)
    }
}

fn bin(octaves: f64) -> usize {
    (MIDDLE + (octaves * PER_OCTAVE).round()).clamp(0.0, (BINS - 1) as f64) as usize
}
