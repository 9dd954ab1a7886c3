//! Teunter, Syntetos & Babai (2011), intermittent demand: chance of a write and its size smoothed apart,
//! so that the forecast of a dead program decays.

use super::Conformal;
use crate::predict::{Distribution, Model, TickFeatures};

const CHANCE_STEP: f64 = 0.05;
const SIZE_STEP: f64 = 0.1;

/// The method with its learned spread.
#[derive(Default)]
pub struct Tsb {
    chance: f64,
    size: f64,
    spread: Conformal,
}

impl Model for Tsb {
    fn name(&self) -> &str {
        "tsb"
    }
    fn observe(&mut self, tick: &TickFeatures) {
        let wrote = tick.bytes > 0;
        self.chance += CHANCE_STEP * (wrote as u8 as f64 - self.chance);
        if wrote {
            let step = if self.size == 0.0 { 1.0 } else { SIZE_STEP };
            self.size += step * (tick.bytes as f64 - self.size);
        }
        self.spread.observe(tick, self.chance * self.size * tick.horizon_ticks as f64);
    }
    fn forecast(&mut self) -> Distribution {
        self.spread.distribution()
    }
}
