//! "markov": the histogram of what followed in situations like the present one. The situation is the
//! class of the last horizon's bytes, how the last tick compares, and how long it has been idle or busy;
//! rare situations back off to coarser ones, as in an n-gram model of text.

use super::backoff::{BackOff, Key};
use crate::predict::{Distribution, Model, TickFeatures, class_of};

const LEVELS: usize = 4;
const HALF_LIFE_TICKS: f32 = 6000.0;
/// Observations the coarser level is worth; neighbouring ticks share most of their outcome.
const STRENGTH: [f32; LEVELS] = [1.0, 5.0, 10.0, 20.0];
const SITUATIONS_MAX: usize = 3000;

/// The model.
pub struct Context {
    followed: BackOff<u32, LEVELS>,
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

    /// With room for so many situations.
    pub fn sized(situations_max: usize) -> Self {
        Context { followed: BackOff::new(HALF_LIFE_TICKS, situations_max) }
    }

    /// Situations known.
    pub fn situations(&self) -> usize {
        self.followed.situations()
    }
}

/// The present situation from coarse to fine.
fn situation(tick: &TickFeatures) -> [Key<u32>; LEVELS] {
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
        self.followed.observe(tick, situation(tick));
    }

    fn forecast(&mut self) -> Distribution {
        self.followed.forecast(STRENGTH)
    }
}
