//! The course of a replay, in as many columns as a picture has: the largest of each.

use super::run::ReplayOptions;
use crate::predict::Distribution;

/// Columns of the longest track.
const COLUMNS: usize = 1200;

/// One column: bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Column {
    /// Written in the horizon that began here.
    pub need: f64,
    pub q50: f64,
    pub q95: f64,
    pub q99: f64,
    /// Ready, or left in open segments.
    pub reserve: f64,
}

/// What one policy said and did.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    pub policy: String,
    /// Length of the trace.
    pub seconds: f64,
    pub horizon_seconds: f64,
    pub columns: Vec<Column>,
    /// Bytes of the horizon that begins with each tick.
    needs: Vec<u64>,
}

impl Track {
    /// Of a trace whose ticks brought `outcomes` bytes.
    pub fn new(policy: &str, seconds: f64, options: &ReplayOptions, outcomes: &[u64]) -> Track {
        let horizon = (options.horizon_ns / options.interval_ns.max(1)).max(1) as usize;
        let sum = |i: usize| outcomes[i..].iter().take(horizon).sum();
        Track {
            policy: policy.into(),
            seconds,
            horizon_seconds: options.horizon_ns as f64 / 1e9,
            columns: vec![Column::default(); outcomes.len().clamp(1, COLUMNS)],
            needs: (0..outcomes.len()).map(sum).collect(),
        }
    }

    /// After tick number `tick`, counted from 1: the forecast for what begins then, and the reserve.
    pub fn note(&mut self, tick: u64, said: &Distribution, reserve: u64) {
        let ticks = self.needs.len().max(1);
        let at = ((tick as usize - 1) * self.columns.len() / ticks).min(self.columns.len() - 1);
        let c = &mut self.columns[at];
        c.need = c.need.max(self.needs.get(tick as usize).copied().unwrap_or(0) as f64);
        c.q50 = c.q50.max(said.q50);
        c.q95 = c.q95.max(said.q95);
        c.q99 = c.q99.max(said.q99);
        c.reserve = c.reserve.max(reserve as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_keeps_the_largest_of_its_ticks() {
        let mut outcomes = vec![0; 2400];
        outcomes[1000] = 500;
        let options = ReplayOptions { horizon_ns: 100_000_000, ..ReplayOptions::default() };
        let mut t = Track::new("x", 120.0, &options, &outcomes);
        (1..=2400).for_each(|n| t.note(n, &Distribution::point(n as f64), n));
        assert_eq!(t.columns.len(), COLUMNS);
        // The forecast after tick 999 is about ticks 1000 and 1001, that after 1000 about the next ones.
        let needs: Vec<usize> = (0..COLUMNS).filter(|i| t.columns[*i].need > 0.0).collect();
        assert_eq!(needs, [499]);
        assert_eq!((t.columns[0].reserve, t.columns[1199].reserve), (2.0, 2400.0));
        let mut short = Track::new("x", 0.1, &options, &[7]);
        short.note(1, &Distribution::point(1.0), 1);
        assert_eq!(short.columns.len(), 1);
    }
}
