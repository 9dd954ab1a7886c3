//! PostgreSQL's rule for how much WAL to keep (`UpdateCheckPointDistanceEstimate` in xlog.c): up at
//! once, down by 0.90 / 0.10 steps.

use crate::predict::{Distribution, Model, TickFeatures};

/// The estimate; a step down once a horizon.
#[derive(Default)]
pub struct DecayingMax {
    estimate: f64,
}

impl Model for DecayingMax {
    fn name(&self) -> &str {
        "decaying-max"
    }
    fn observe(&mut self, tick: &TickFeatures) {
        let outcome = tick.horizon_bytes as f64;
        if outcome > self.estimate {
            self.estimate = outcome;
        } else if (tick.tick + 1).is_multiple_of(tick.horizon_ticks as u64) {
            self.estimate = 0.90 * self.estimate + 0.10 * outcome;
        }
    }
    fn forecast(&mut self) -> Distribution {
        Distribution::point(self.estimate)
    }
}
