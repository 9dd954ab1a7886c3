//! A forecast for each program that matters: the top eight by bytes, and all others as one pool.

use super::features::{FeatureTracker, TickSums};
use super::models::Context;
use super::{Distribution, Model};
use crate::types::ProgramId;
use std::collections::HashMap;

/// Programs with a model of their own.
pub const GROUPS_MAX: usize = 8;
const RANKED_MAX: usize = 256;
const SITUATIONS_MAX: usize = 400;
/// Bytes fade with a half-life of a minute at 50 ms ticks.
const FADE: f64 = 0.99942;

struct Group {
    tracker: FeatureTracker,
    model: Context,
}

impl Group {
    fn new(horizon_ticks: u32) -> Self {
        Group { tracker: FeatureTracker::new(horizon_ticks), model: Context::sized(SITUATIONS_MAX) }
    }
    fn observe(&mut self, bytes: u64, requests: u64) {
        self.model.observe(&self.tracker.push(TickSums { bytes, requests, ..TickSums::default() }));
    }
}

/// The groups.
pub struct Groups {
    horizon_ticks: u32,
    own: Vec<(ProgramId, Group)>,
    pool: Group,
    ranked: HashMap<ProgramId, f64>,
}

impl Groups {
    /// No program yet.
    pub fn new(horizon_ticks: u32) -> Self {
        let pool = Group::new(horizon_ticks);
        Groups { horizon_ticks, own: Vec::new(), pool, ranked: HashMap::new() }
    }

    /// A finished tick: bytes and requests by program.
    pub fn observe(&mut self, programs: &[(ProgramId, u64, u64)]) {
        self.rank(programs);
        let (mut rest_bytes, mut rest_requests) = (0, 0);
        for (program, bytes, requests) in programs {
            if !self.own.iter().any(|(p, _)| p == program) {
                rest_bytes += bytes;
                rest_requests += requests;
            }
        }
        for (program, group) in &mut self.own {
            let wrote = programs.iter().find(|w| w.0 == *program);
            group.observe(wrote.map_or(0, |w| w.1), wrote.map_or(0, |w| w.2));
        }
        self.pool.observe(rest_bytes, rest_requests);
    }

    /// Forecasts, the pool (`None`) last.
    pub fn forecast(&mut self) -> Vec<(Option<ProgramId>, Distribution)> {
        let mut all: Vec<_> = self.own.iter_mut().map(|(p, g)| (Some(*p), g.model.forecast())).collect();
        all.push((None, self.pool.model.forecast()));
        all
    }

    fn rank(&mut self, programs: &[(ProgramId, u64, u64)]) {
        self.ranked.values_mut().for_each(|b| *b *= FADE);
        for (program, bytes, _) in programs {
            *self.ranked.entry(*program).or_default() += *bytes as f64;
        }
        if self.ranked.len() > RANKED_MAX {
            let own = &self.own;
            self.ranked.retain(|p, bytes| *bytes > 1024.0 || own.iter().any(|o| o.0 == *p));
        }
        for (program, _, _) in programs {
            if self.own.iter().any(|(p, _)| p == program) {
                continue;
            }
            let bytes = self.ranked[program];
            let weight = |p: &ProgramId| self.ranked.get(p).copied().unwrap_or(0.0);
            if self.own.len() < GROUPS_MAX {
                self.own.push((*program, Group::new(self.horizon_ticks)));
            } else if let Some(i) = (0..self.own.len())
                .min_by(|a, b| weight(&self.own[*a].0).total_cmp(&weight(&self.own[*b].0)))
                // Twice the bytes of the one that leaves: a fresh model has all to learn.
                && bytes > 2.0 * weight(&self.own[i].0)
            {
                self.own[i] = (*program, Group::new(self.horizon_ticks));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_get_a_model_the_rest_share_one() {
        let mut g = Groups::new(20);
        for _ in 0..400 {
            let tick: Vec<_> = (1..=20).map(|p| (ProgramId(p), p as u64 * 1000, 1)).collect();
            g.observe(&tick);
        }
        let all = g.forecast();
        assert_eq!(all.len(), GROUPS_MAX + 1);
        assert!(all.iter().all(|(p, _)| p.is_none_or(|p| p.0 >= 10)));
        let sum: f64 = all.iter().map(|(_, d)| d.expected_bytes).sum();
        assert!((sum / (210.0 * 1000.0 * 20.0) - 1.0).abs() < 0.1, "{sum}");
    }
}
