//! Exponentially weighted moving average of bytes a tick. Also the statistic of an exponential Hawkes
//! process, so two of them cover self-exciting bursts.

use super::Conformal;
use crate::predict::{Distribution, Model, TickFeatures};

/// The average with its learned spread.
pub struct Ewma {
    name: &'static str,
    alpha: f64,
    mean: f64,
    spread: Conformal,
}

impl Ewma {
    /// `alpha` in 0..1: weight of the newest tick.
    pub fn new(name: &'static str, alpha: f64) -> Self {
        Ewma { name, alpha, mean: 0.0, spread: Conformal::default() }
    }
}

impl Model for Ewma {
    fn name(&self) -> &str {
        self.name
    }
    fn observe(&mut self, tick: &TickFeatures) {
        self.mean += self.alpha * (tick.bytes as f64 - self.mean);
        self.spread.observe(tick, self.mean * tick.horizon_ticks as f64);
    }
    fn forecast(&mut self) -> Distribution {
        self.spread.distribution()
    }
}
