//! "sequence": the histogram of what followed at this time since this program began to write. Knows what a
//! program does once it started, and what starts after it, where jobs run one after another.

use super::backoff::{BackOff, Key};
use super::doubt;
use crate::predict::{Distribution, Model, TickFeatures, class_of};

const LEVELS: usize = 5;
const HALF_LIFE_TICKS: f32 = 12_000.0;
/// Observations the coarser level is worth.
const STRENGTH: [f32; LEVELS] = [1.0, 5.0, 5.0, 10.0, 10.0];
const SITUATIONS_MAX: usize = 3000;

type Situation = [Key<(u32, u32, u8)>; LEVELS];

/// The model.
pub struct Sequence {
    followed: BackOff<(u32, u32, u8), LEVELS>,
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
        Sequence { followed: BackOff::new(HALF_LIFE_TICKS, SITUATIONS_MAX), doubt: 1.0 }
    }
}

/// The present situation from coarse to fine.
fn situation(tick: &TickFeatures) -> Situation {
    let o = tick.onset;
    let recent = class_of(tick.horizon_bytes as f64) as u8;
    let (coarse, fine) = (phase(o.ticks, 1), phase(o.ticks, 4));
    [
        (0, (0, 0, 0)),
        (1, (0, 0, recent)),
        (2, (o.program, 0, coarse)),
        (3, (o.program, recent as u32, coarse)),
        (4, (o.program, recent as u32, fine)),
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
        self.doubt = doubt(tick.horizon_ticks);
        self.followed.observe(tick, situation(tick));
    }

    fn forecast(&mut self) -> Distribution {
        self.followed.forecast(STRENGTH.map(|s| s * self.doubt))
    }
}
