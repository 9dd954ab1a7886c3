//! The past that windows are drawn from: a bounded ring of ticks, what came after them, and every few ticks
//! the state the layer was in, so that a replayed window starts where it once did (stored states: Kapturowski
//! et al. 2019).

use super::network::{INPUTS, Input, State};
use crate::predict::TickFeatures;
use std::collections::VecDeque;

/// Ticks kept: 13 minutes at 50 ms, 0.7 MiB with the states.
const TICKS: usize = 16_384;
/// States are kept, and windows begin, every so many ticks.
const STRIDE: usize = 16;
/// Steps of a window.
pub const STEPS: usize = 32;

/// Natural logs of bytes are divided by this.
const LOG_SCALE: f32 = 10.0;

/// Bytes as the network knows them.
pub fn scaled(bytes: f64) -> f32 {
    bytes.max(0.0).ln_1p() as f32 / LOG_SCALE
}

/// And back. Outputs beyond any size are held at 2^63.
pub fn unscaled(output: f32) -> f64 {
    ((output * LOG_SCALE) as f64).clamp(0.0, 43.0).exp_m1()
}

/// The inputs of a tick: logs of its bytes, of its count, of the last horizon's bytes, of two averages, of idle
/// and busy time; and whether it wrote.
pub fn input(tick: &TickFeatures) -> Input {
    let count = |n: u64, scale: f32| (n as f32).ln_1p() / scale;
    let all: [f32; INPUTS] = [
        scaled(tick.bytes as f64),
        count(tick.requests, 5.0),
        scaled(tick.horizon_bytes as f64),
        scaled(tick.ewma_fast),
        scaled(tick.ewma_slow),
        count(tick.idle_ticks.min(1 << 14) as u64, 5.0),
        count(tick.run_ticks.min(1 << 14) as u64, 5.0),
        (tick.bytes > 0) as u8 as f32,
    ];
    all
}

/// The ring.
pub struct Past {
    limit: usize,
    inputs: VecDeque<Input>,
    /// Known one horizon later than inputs.
    wanted: VecDeque<f32>,
    states: VecDeque<State>,
    seen: u64,
}

impl Default for Past {
    fn default() -> Self {
        Self::bounded(TICKS)
    }
}

impl Past {
    /// Of so many ticks.
    pub fn bounded(limit: usize) -> Self {
        let (inputs, wanted, states) = Default::default();
        Past { limit, inputs, wanted, states, seen: 0 }
    }

    /// Adds a tick and the state before it.
    pub fn push(&mut self, x: Input, before: &State) {
        if self.seen.is_multiple_of(STRIDE as u64) {
            if self.inputs.len() >= self.limit {
                self.inputs.drain(..STRIDE);
                self.wanted.drain(..STRIDE.min(self.wanted.len()));
                self.states.pop_front();
            }
            self.states.push_back(*before);
        }
        self.inputs.push_back(x);
        self.seen += 1;
    }

    /// What came in the horizon after the oldest tick that did not know yet.
    pub fn push_outcome(&mut self, wanted: f32) {
        self.wanted.push_back(wanted);
    }

    /// Ticks that wait for their outcome.
    pub fn waiting(&self) -> usize {
        self.inputs.len() - self.wanted.len()
    }

    /// Windows there are.
    pub fn windows(&self) -> usize {
        (self.wanted.len() + STRIDE).saturating_sub(STEPS) / STRIDE
    }

    /// The state before a window, and its steps.
    pub fn window(&self, n: usize) -> (State, impl ExactSizeIterator<Item = (Input, f32)> + '_) {
        let start = n * STRIDE;
        let steps = (start..start + STEPS).map(|i| (self.inputs[i], self.wanted[i]));
        (self.states[n], steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_keep_what_belongs_together() {
        let mut p = Past::default();
        for i in 0..40_000u32 {
            let state = State { h: [i as f32; super::super::HIDDEN], ..State::default() };
            p.push([i as f32; INPUTS], &state);
            if p.waiting() > 20 {
                p.push_outcome((i - 20) as f32);
            }
        }
        assert!(p.inputs.len() <= TICKS && p.windows() > 1000);
        for n in [0, 1, p.windows() - 1] {
            let (state, steps) = p.window(n);
            let steps: Vec<_> = steps.collect();
            assert_eq!(steps.len(), STEPS);
            assert_eq!(state.h[0], steps[0].0[0]);
            assert!(steps.iter().all(|(x, wanted)| x[0] == *wanted));
        }
    }

    #[test]
    fn bytes_there_and_back() {
        for bytes in [0.0, 1.0, 4096.0, 1e9] {
            assert!((unscaled(scaled(bytes)) - bytes).abs() <= 1e-4 * bytes, "{bytes}");
        }
        assert!(unscaled(f32::MAX).is_finite() && unscaled(-1.0) == 0.0);
    }
}
