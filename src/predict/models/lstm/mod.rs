//! "lstm": a small recurrent network that forecasts three quantiles of the log of the next horizon's bytes. It
//! learns on the fly: one window a tick, drawn at random from the ticks it has seen, one step of Adam on it.
//! Trained tick after tick in order instead, it forgets all but the last minute (PREDICTION.md section 2).

mod adam;
mod kept;
mod network;
mod train;
mod window;

pub use network::{HIDDEN, INPUTS, TAUS, WEIGHTS};
pub use train::{Epoch, train};

use crate::predict::{CLASSES, Distribution, Model, TickFeatures, class_of};
use adam::Adam;
use network::{State, Tape};
use window::{Past, input, scaled, unscaled};

const RATE: f32 = 2e-3;
const SEED: u64 = 0x5eed_1e57;
/// Below this a quantile says "nothing".
const BYTES_MIN: f64 = 32.0;
/// Parts into which the space between two quantiles is cut.
const PARTS: usize = 24;
/// How far the last hundredth reaches beyond the .99 quantile.
const TAIL: f64 = 1.5;

/// Pseudo-random numbers from a seed (xorshift64*, Vigna 2016), so that a replay repeats itself.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed; zero counts as one.
    pub fn new(seed: u64) -> Self {
        Random(seed.max(1))
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// In 0..1.
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
    /// In 0..n; 0 for none.
    pub fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }
}

/// The model.
pub struct Lstm {
    learner: Adam,
    state: State,
    past: Past,
    random: Random,
    gradient: Vec<f32>,
    tape: Tape,
    said: [f32; 3],
    largest: f64,
}

impl Default for Lstm {
    fn default() -> Self {
        Self::new()
    }
}

impl Lstm {
    /// Knows nothing yet; always starts from the same random weights.
    pub fn new() -> Self {
        let mut random = Random::new(SEED);
        let weights = network::initial(|| random.uniform());
        Self::with(Adam::new(weights, false), random)
    }

    fn with(learner: Adam, random: Random) -> Self {
        Lstm {
            learner,
            state: State::default(),
            past: Past::default(),
            random,
            gradient: vec![0.0; WEIGHTS],
            tape: Tape::default(),
            said: [0.0; 3],
            largest: 0.0,
        }
    }

    /// Its weights, to be kept.
    pub fn save(&self) -> Vec<u8> {
        kept::save(&self.learner.average)
    }

    /// From kept weights; `None`, and a line in the log, when they cannot be read.
    pub fn load(bytes: &[u8]) -> Option<Self> {
        let weights = kept::load(bytes)?;
        Some(Self::with(Adam::new(weights, true), Random::new(SEED)))
    }

    /// Takes in a tick: the state moves on, the past grows.
    fn absorb(&mut self, tick: &TickFeatures) {
        self.largest = self.largest.max(tick.horizon_bytes as f64);
        if self.past.waiting() >= tick.horizon_ticks as usize {
            self.past.push_outcome(scaled(tick.horizon_bytes as f64));
        }
        let x = input(tick);
        self.past.push(x, &self.state);
        self.said = network::forward(&self.learner.average, &x, &mut self.state);
    }

    /// One step on one window. Returns its loss before the step.
    fn learn(&mut self, window: usize) -> f32 {
        let (state, steps) = self.past.window(window);
        let loss = network::gradient(&self.learner.weights, state, steps, &mut self.gradient, &mut self.tape);
        self.learner.step(&mut self.gradient, RATE);
        loss
    }

    /// Quantiles in bytes, in order, none beyond the largest outcome seen.
    fn quantiles(&self) -> [f64; 3] {
        let mut below = 0.0f64;
        self.said.map(|output| {
            let bytes = unscaled(output).min(self.largest);
            below = below.max(if bytes < BYTES_MIN { 0.0 } else { bytes });
            below
        })
    }
}

/// A histogram through three quantiles: even in the log of bytes between them, as nothing else is known.
fn distribution([q50, q95, q99]: [f64; 3]) -> Distribution {
    let mut weights = [0.0f32; CLASSES];
    let mut lay = |mass: f32, from: f64, to: f64| {
        let (from, to) = (from.max(0.0).ln_1p(), to.max(0.0).ln_1p());
        for k in 0..PARTS {
            let at = from + (to - from) * (k as f64 + 0.5) / PARTS as f64;
            weights[class_of(at.exp_m1())] += mass / PARTS as f32;
        }
    };
    lay(0.5, q50 / 2.0, q50);
    lay(0.45, q50, q95);
    lay(0.04, q95, q99);
    lay(0.01, q99, q99 * TAIL);
    Distribution { q50, q95, q99, ..Distribution::from_weights(&weights) }
}

impl Model for Lstm {
    fn name(&self) -> &str {
        "lstm"
    }

    fn observe(&mut self, tick: &TickFeatures) {
        self.absorb(tick);
        let windows = self.past.windows();
        if windows > 0 {
            let window = self.random.below(windows);
            self.learn(window);
        }
    }

    fn forecast(&mut self) -> Distribution {
        distribution(self.quantiles())
    }

    fn weights(&self) -> Option<Vec<u8>> {
        Some(self.save())
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some(weights) = kept::load(bytes) else { return false };
        self.learner = Adam::new(weights, true);
        true
    }
}

#[cfg(test)]
mod tests;
