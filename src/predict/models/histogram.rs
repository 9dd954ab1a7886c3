//! Histograms of outcomes that forget: instead of decaying every count at every tick, new counts weigh
//! more; the owner rescales all tables when the weight grows large.

use crate::predict::CLASSES;

/// The weight of an observation made now.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    now: f32,
    step: f32,
}

impl Weight {
    const LARGE: f32 = 1e6;

    /// Half the trust is gone after so many ticks.
    pub fn with_half_life(ticks: f32) -> Self {
        Weight { now: 1.0, step: 2f32.powf(1.0 / ticks) }
    }
    /// The weight.
    pub fn now(&self) -> f32 {
        self.now
    }
    /// One tick on. Returns a factor by which the owner must multiply all its counts, when it is time.
    #[must_use]
    pub fn advance(&mut self) -> Option<f32> {
        self.now *= self.step;
        (self.now > Self::LARGE).then(|| {
            let factor = 1.0 / self.now;
            self.now = 1.0;
            factor
        })
    }
}

/// What coarser levels are to count for, when horizons of so many ticks overlap: neighbouring outcomes are
/// then almost one, and a count of them says less.
pub fn doubt(horizon_ticks: u32) -> f32 {
    1.0 + horizon_ticks as f32 / 8.0
}

/// Weighted counts of outcome classes.
#[derive(Clone, Debug)]
pub struct Histogram {
    pub counts: [f32; CLASSES],
    pub total: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0.0; CLASSES], total: 0.0 }
    }
}

impl Histogram {
    /// Adds an outcome.
    pub fn add(&mut self, class: usize, weight: f32) {
        self.counts[class] += weight;
        self.total += weight;
    }
    /// Multiplies all counts.
    pub fn scale(&mut self, factor: f32) {
        self.counts.iter_mut().for_each(|c| *c *= factor);
        self.total *= factor;
    }
    /// Mixes into `prior` (which sums to one): a Dirichlet back-off, where the prior is worth
    /// `strength` observations of today's weight.
    pub fn blend(&self, prior: &mut [f32; CLASSES], strength: f32) {
        let scale = 1.0 / (self.total + strength);
        for (p, c) in prior.iter_mut().zip(&self.counts) {
            *p = (c + strength * *p) * scale;
        }
    }
}
