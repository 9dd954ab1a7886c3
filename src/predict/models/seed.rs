//! The naive sizings, kept to be compared with: volume times size as first written down, the same with
//! its units put right, and twice the average.

use crate::predict::{Distribution, Model, TickFeatures};

const MEGABYTE: f64 = 1e6;

/// Which sizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedForm {
    /// 1 MB x requests x bytes of a request, over the next tick. The unit is bytes squared.
    Literal,
    /// Requests x bytes of a request, over the next tick.
    Fixed,
    /// Twice the average of a second.
    TwiceEwma,
}

/// A sizing; knows no spread.
pub struct Seed {
    form: SeedForm,
    requests: f64,
    bytes: f64,
    horizon_ticks: f64,
}

impl Seed {
    /// In the given form.
    pub fn new(form: SeedForm) -> Self {
        Seed { form, requests: 0.0, bytes: 0.0, horizon_ticks: 0.0 }
    }
}

impl Model for Seed {
    fn name(&self) -> &str {
        match self.form {
            SeedForm::Literal => "seed-literal",
            SeedForm::Fixed => "seed",
            SeedForm::TwiceEwma => "ewma2",
        }
    }
    fn observe(&mut self, tick: &TickFeatures) {
        self.horizon_ticks = tick.horizon_ticks as f64;
        let step = if self.form == SeedForm::TwiceEwma { 0.05 } else { 0.3 };
        self.requests += step * (tick.requests as f64 - self.requests);
        self.bytes += step * (tick.bytes as f64 - self.bytes);
    }
    fn forecast(&mut self) -> Distribution {
        Distribution::point(match self.form {
            SeedForm::Literal => MEGABYTE * self.bytes,
            SeedForm::Fixed => self.bytes,
            SeedForm::TwiceEwma => 2.0 * self.bytes * self.horizon_ticks,
        })
    }
}
