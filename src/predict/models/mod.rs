//! The forecasters, each a small file. `all` is the pool the leader chooses from; `by_name` also knows
//! the naive policies kept for comparison.

mod arrls;
mod backoff;
mod blend;
mod conformal;
mod context;
mod decaying_max;
mod ewma;
mod histogram;
pub mod lstm;
mod quantile;
mod renewal;
mod seed;
mod sequence;
mod tsb;

pub use arrls::ArRls;
pub use blend::Blend;
pub use conformal::Conformal;
pub use context::Context;
pub use decaying_max::DecayingMax;
pub use ewma::Ewma;
pub use histogram::{Histogram, Weight, doubt};
pub use lstm::Lstm;
pub use quantile::SlidingQuantile;
pub use renewal::Renewal;
pub use seed::{Seed, SeedForm};
pub use sequence::Sequence;
pub use tsb::Tsb;

use super::{Distribution, Model, TickFeatures};

/// Static sizing as a forecast: always the same reserve.
pub struct Static {
    bytes: f64,
}

impl Static {
    /// `bytes`: what static sizing holds ready.
    pub fn new(bytes: u64) -> Self {
        Static { bytes: bytes as f64 }
    }
}

impl Model for Static {
    fn name(&self) -> &str {
        "static"
    }
    fn observe(&mut self, _: &TickFeatures) {}
    fn forecast(&mut self) -> Distribution {
        Distribution::point(self.bytes)
    }
}

/// Names of the pool, `static` first.
pub const POOL: [&str; 12] = [
    "static",
    "quantile-60s",
    "ewma-fast",
    "ewma-slow",
    "tsb",
    "decaying-max",
    "markov",
    "renewal",
    "ar-rls",
    "lstm",
    "sequence",
    "blend",
];

/// Policies that are no part of the pool, for `--predict` and `trace replay`.
pub const NAIVE: [&str; 4] = ["quantile-10s", "seed-literal", "seed", "ewma2"];

/// The model of a name. `ticks_per_second` is one second over the tick interval; `static_bytes` what
/// static sizing holds ready.
pub fn by_name(name: &str, ticks_per_second: u32, static_bytes: u64) -> Option<Box<dyn Model>> {
    let second = ticks_per_second.max(1) as usize;
    Some(match name {
        "static" => Box::new(Static::new(static_bytes)),
        "quantile-10s" => Box::new(SlidingQuantile::new("quantile-10s", 10 * second)),
        "quantile-60s" => Box::new(SlidingQuantile::new("quantile-60s", 60 * second)),
        "ewma-fast" => Box::new(Ewma::new("ewma-fast", 0.3)),
        "ewma-slow" => Box::new(Ewma::new("ewma-slow", 0.05)),
        "tsb" => Box::new(Tsb::default()),
        "decaying-max" => Box::new(DecayingMax::default()),
        "markov" => Box::new(Context::new()),
        "renewal" => Box::new(Renewal::new()),
        "ar-rls" => Box::new(ArRls::new(second)),
        "lstm" => Box::new(Lstm::new()),
        "sequence" => Box::new(Sequence::new()),
        "blend" => Box::new(Blend::new(second)),
        "seed-literal" => Box::new(Seed::new(SeedForm::Literal)),
        "seed" => Box::new(Seed::new(SeedForm::Fixed)),
        "ewma2" => Box::new(Seed::new(SeedForm::TwiceEwma)),
        _ => return None,
    })
}

/// The whole pool.
pub fn all(ticks_per_second: u32, static_bytes: u64) -> Vec<Box<dyn Model>> {
    POOL.iter().filter_map(|n| by_name(n, ticks_per_second, static_bytes)).collect()
}

#[cfg(test)]
mod tests;
