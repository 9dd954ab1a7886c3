//! What a finished tick looks like to the models, computed once for all of them.

use super::Onset;
use std::collections::VecDeque;

/// One finished tick and its recent past.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TickFeatures {
    /// Number of the tick, from 0.
    pub tick: u64,
    /// Ticks in a horizon.
    pub horizon_ticks: u32,
    /// Written in this tick.
    pub bytes: u64,
    pub requests: u64,
    /// Opens and creates, and fsyncs, in this tick.
    pub opens: u32,
    pub fsyncs: u32,
    /// Written in the last horizon, this tick included: the outcome of the forecast issued then.
    pub horizon_bytes: u64,
    pub horizon_requests: u64,
    /// False until a whole horizon was seen.
    pub complete: bool,
    /// Moving averages of bytes a tick, steps 0.3 and 0.05.
    pub ewma_fast: f64,
    pub ewma_slow: f64,
    /// Ticks since the last write (0: this one wrote), and ticks in a row that wrote.
    pub idle_ticks: u32,
    pub run_ticks: u32,
    /// The program that started to write last.
    pub onset: Onset,
    /// Mean bytes of a request over the last minute or so.
    pub mean_request_bytes: f64,
}

/// Sums of one tick.
#[derive(Clone, Copy, Debug, Default)]
pub struct TickSums {
    pub bytes: u64,
    pub requests: u64,
    pub opens: u32,
    pub fsyncs: u32,
}

/// Turns tick sums into features.
#[derive(Clone, Debug)]
pub struct FeatureTracker {
    now: TickFeatures,
    window: VecDeque<(u64, u64)>,
    decayed: (f64, f64),
}

impl FeatureTracker {
    /// For a horizon of so many ticks (at least one).
    pub fn new(horizon_ticks: u32) -> Self {
        let horizon_ticks = horizon_ticks.max(1);
        FeatureTracker {
            now: TickFeatures { horizon_ticks, idle_ticks: u32::MAX / 2, ..TickFeatures::default() },
            window: VecDeque::with_capacity(horizon_ticks as usize + 1),
            decayed: (0.0, 0.0),
        }
    }

    /// Takes the next tick.
    pub fn push(&mut self, sums: TickSums) -> TickFeatures {
        let f = &mut self.now;
        let (bytes, requests) = (sums.bytes, sums.requests);
        f.tick = if self.window.is_empty() { 0 } else { f.tick + 1 };
        (f.bytes, f.requests, f.opens, f.fsyncs) = (bytes, requests, sums.opens, sums.fsyncs);
        self.window.push_back((bytes, requests));
        f.horizon_bytes += bytes;
        f.horizon_requests += requests;
        if self.window.len() > f.horizon_ticks as usize
            && let Some(old) = self.window.pop_front()
        {
            f.horizon_bytes -= old.0;
            f.horizon_requests -= old.1;
        }
        f.complete = self.window.len() >= f.horizon_ticks as usize;
        f.ewma_fast += 0.3 * (bytes as f64 - f.ewma_fast);
        f.ewma_slow += 0.05 * (bytes as f64 - f.ewma_slow);
        if bytes > 0 {
            (f.idle_ticks, f.run_ticks) = (0, f.run_ticks.saturating_add(1));
            self.decayed.0 = self.decayed.0 * 0.999 + bytes as f64;
            self.decayed.1 = self.decayed.1 * 0.999 + requests as f64;
            f.mean_request_bytes = self.decayed.0 / self.decayed.1.max(1.0);
        } else {
            (f.idle_ticks, f.run_ticks) = (f.idle_ticks.saturating_add(1), 0);
        }
        *f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_the_last_horizon() {
        let mut t = FeatureTracker::new(3);
        let mut seen = Vec::new();
        for bytes in [1, 0, 4, 0, 0, 0] {
            let f = t.push(TickSums { bytes, requests: bytes.min(1), ..TickSums::default() });
            seen.push((f.horizon_bytes, f.horizon_requests, f.complete, f.idle_ticks, f.run_ticks));
        }
        assert_eq!(seen[..3], [(1, 1, false, 0, 1), (1, 1, false, 1, 0), (5, 2, true, 0, 1)]);
        assert_eq!(seen[3..], [(4, 1, true, 1, 0), (4, 1, true, 2, 0), (0, 0, true, 3, 0)]);
    }
}
