//! The policies that can be compared.

use super::run::ReplayOptions;
use crate::predict::{
    Choice, Distribution, ManagerConfig, Model, PredictiveLogManager, TickFeatures, models,
};
use crate::segmenter::Limits;

const MIB: u64 = 1 << 20;

/// Static sizings: name, segment size, spares.
const STATIC: [(&str, u64, u32); 4] = [
    ("static-1m", MIB, 1),
    ("static-4m", 4 * MIB, 1),
    ("static-16m", 16 * MIB, 1),
    ("static-16m-4", 16 * MIB, 4),
];

/// Sized as they were meant: one segment for all that is expected, at most 16 MiB.
const SEED: [&str; 2] = ["seed-literal", "seed"];
const SEED_BYTES_MAX: u64 = 16 * MIB;

/// One policy: its name, and how it predicts and sizes.
pub struct Policy {
    pub name: String,
    pub limits: Limits,
    pub manager: PredictiveLogManager,
}

/// Names of all policies, in the order of reports.
pub fn all_policies() -> Vec<&'static str> {
    let first = STATIC.iter().map(|s| s.0);
    let models = models::POOL[1..].iter().copied();
    first.chain(models::NAIVE).chain(models).chain(["leader", "fixed-share", "oracle"]).collect()
}

impl Policy {
    /// The policy of a name; `outcomes` are the trace's bytes a tick, for the oracle.
    pub fn by_name(name: &str, options: &ReplayOptions, outcomes: &[u64]) -> Result<Policy, String> {
        let mut limits = options.limits;
        if let Some((_, bytes, spares)) = STATIC.iter().find(|s| s.0 == name) {
            (limits.segment_bytes_static, limits.spares_static) = (*bytes, *spares);
        }
        let mut config = ManagerConfig {
            interval_ns: options.interval_ns,
            horizon_ns: options.horizon_ns,
            seal_after_ns: limits.seal_after_ns,
            static_bytes: limits.static_bytes(),
            choice: Choice::Off,
            lean: true,
            guarded: false,
            without: options.without.clone(),
        };
        let mut manager = if STATIC.iter().any(|s| s.0 == name) {
            PredictiveLogManager::new(config)
        } else if name == "oracle" {
            let ticks = config.ticks(config.horizon_ns) as usize;
            PredictiveLogManager::with_model(config, Box::new(Oracle::new(outcomes, ticks)))
        } else {
            if SEED.contains(&name) {
                limits.one_segment = true;
                limits.segment_bytes_max = limits.segment_bytes_max.min(SEED_BYTES_MAX);
            }
            config.choice = match Choice::parse(name)? {
                Choice::Off => return Err(format!("no policy '{name}': use {}", all_policies().join(", "))),
                choice => choice,
            };
            config.guarded = !matches!(config.choice, Choice::Model(_));
            PredictiveLogManager::new(config)
        };
        // Only those that run a model with weights take them.
        manager.restore_weights(&options.weights);
        Ok(Policy { name: name.into(), limits, manager })
    }
}

/// Knows the bytes of the next horizon: the bound that no forecast can beat.
struct Oracle {
    coming: Vec<u64>,
    tick: usize,
}

impl Oracle {
    fn new(outcomes: &[u64], horizon_ticks: usize) -> Self {
        let sum = |i: usize| outcomes[i..].iter().take(horizon_ticks).sum();
        Oracle { coming: (0..outcomes.len()).map(sum).collect(), tick: 0 }
    }
}

impl Model for Oracle {
    fn name(&self) -> &str {
        "oracle"
    }
    fn observe(&mut self, _: &TickFeatures) {
        self.tick += 1;
    }
    fn foresees(&self) -> bool {
        true
    }

    fn forecast(&mut self) -> Distribution {
        Distribution::point(self.coming.get(self.tick).copied().unwrap_or(0) as f64)
    }
}
