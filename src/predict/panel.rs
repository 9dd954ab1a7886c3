//! All experts side by side: each learns, is judged, speaks; one is chosen.

use super::leader::{Guard, advantage, trust};
use super::*;
use std::collections::VecDeque;

/// Losses are forgotten with this half-life.
const HALF_LIFE_SECONDS: f64 = 60.0;
/// Separate horizons in which misses are counted.
const WINDOWS: usize = 60;
const STATIC: usize = 0;
/// Where the leader is at home.
const PLAIN: &str = "quantile-60s";

/// The forecast chosen at a tick.
pub struct Chosen {
    pub model: usize,
    pub distribution: Distribution,
    /// What is reported as its .95 and .99 quantiles, bytes.
    pub band: (f64, f64),
    /// Its .95 and .99 quantiles if no guard held the trust down, bytes.
    pub free: (f64, f64),
    /// By how much the chosen model was cheaper than static, 0..1.
    pub advantage: f64,
}

/// The experts: `static` first, then those the leader may choose, then any others.
pub struct Panel {
    experts: Vec<Box<dyn Model>>,
    candidates: usize,
    issued: Vec<Distribution>,
    judge: Judge,
    home: usize,
    leader_95: Leader,
    leader_99: Leader,
    shared_95: FixedShare,
    shared_99: FixedShare,
    /// Quantiles, edges of the band, the plain quantiles, and those that unguarded trust would have said.
    spoken: VecDeque<[(f64, f64); 4]>,
    guards: (Guard, Guard),
    bands: (Band, Band),
    scored: Scored,
    misses: VecDeque<bool>,
    largest_bytes: u64,
}

impl Panel {
    /// The first `candidates` experts may lead.
    pub fn new(
        experts: Vec<Box<dyn Model>>,
        candidates: usize,
        horizon_ticks: u32,
        interval_ns: u64,
    ) -> Self {
        let half_life_ticks = HALF_LIFE_SECONDS * 1e9 / interval_ns.max(1) as f64;
        let home = experts.iter().take(candidates).position(|e| e.name() == PLAIN).unwrap_or(STATIC);
        let shared = FixedShare::new(candidates);
        Panel {
            issued: Vec::new(),
            judge: Judge::new(experts.len(), horizon_ticks as usize, half_life_ticks),
            home,
            leader_95: Leader::new(home),
            leader_99: Leader::new(home),
            shared_95: shared.clone(),
            shared_99: shared,
            spoken: VecDeque::new(),
            guards: (Guard::new(interval_ns), Guard::new(interval_ns)),
            bands: (Band::new(0.95), Band::new(0.99)),
            scored: Scored::default(),
            misses: VecDeque::new(),
            largest_bytes: 0,
            experts,
            candidates,
        }
    }

    /// Name of an expert.
    pub fn name(&self, expert: usize) -> &str {
        self.experts[expert].name()
    }

    /// Whether an expert is right about what came only once.
    pub fn foresees(&self, expert: usize) -> bool {
        self.experts[expert].foresees()
    }

    /// What experts learned that is worth keeping.
    pub fn weights(&self) -> Vec<(String, Vec<u8>)> {
        self.experts.iter().filter_map(|e| Some((e.name().to_string(), e.weights()?))).collect()
    }

    /// Gives it back; returns how many took it.
    pub fn restore_weights(&mut self, kept: &[(String, Vec<u8>)]) -> usize {
        let of = |name: &str| kept.iter().find(|k| k.0 == name).map(|k| &k.1[..]);
        self.experts
            .iter_mut()
            .filter_map(|e| of(e.name()).map(|w| e.restore(w)))
            .filter(|took| *took)
            .count()
    }

    /// Misses of the .99 quantile and the windows they were counted in.
    pub fn misses(&self) -> (u32, u32) {
        (self.misses.iter().filter(|m| **m).count() as u32, self.misses.len() as u32)
    }

    /// Most bytes seen in a horizon.
    pub fn largest_bytes(&self) -> u64 {
        self.largest_bytes
    }

    /// Scores of what was spoken, since the start or the last `take_scored`.
    pub fn take_scored(&mut self) -> Scored {
        std::mem::take(&mut self.scored)
    }

    /// One tick: judge what was said, learn, speak. Misses are counted only when `seasoned`: those of a
    /// beginner say nothing.
    pub fn step(&mut self, tick: &TickFeatures, choice: &Choice, seasoned: bool) -> Chosen {
        let outcome = tick.horizon_bytes as f64;
        self.largest_bytes = self.largest_bytes.max(tick.horizon_bytes);
        if self.judge.observe(outcome) {
            let last = &self.judge.last()[..self.candidates];
            self.shared_95.observe(last.iter().map(|e| e.loss_95));
            self.shared_99.observe(last.iter().map(|e| e.loss_99));
        }
        if self.spoken.len() >= tick.horizon_ticks as usize
            && let Some([(q95, q99), (edge_95, edge_99), plain, free]) = self.spoken.pop_front()
        {
            self.scored.add((q95, q99), (edge_95, edge_99), outcome);
            let loss = |q: f64, tau: f64| pinball(q, outcome, tau);
            self.guards.0.observe(loss(q95, 0.95), loss(free.0, 0.95), loss(plain.0, 0.95));
            self.guards.1.observe(loss(q99, 0.99), loss(free.1, 0.99), loss(plain.1, 0.99));
            self.bands.0.observe(outcome > edge_95);
            self.bands.1.observe(outcome > edge_99);
            if seasoned && tick.tick.is_multiple_of(tick.horizon_ticks as u64) {
                self.misses.push_back(outcome > q99);
                if self.misses.len() > WINDOWS {
                    self.misses.pop_front();
                }
            }
        }
        self.issued.clear();
        for (i, expert) in self.experts.iter_mut().enumerate() {
            expert.observe(tick);
            let mut said = expert.forecast();
            // Spreads learned from rare misses would ask for thousands of times the data.
            if i != STATIC && i < self.candidates {
                said.clip(self.largest_bytes as f64);
            }
            self.issued.push(said);
        }
        self.judge.push(&self.issued);
        let mut chosen = self.choose(choice, tick);
        let (q95, q99) = (chosen.distribution.q95, chosen.distribution.q99);
        let edge_99 = self.bands.1.edge(q99);
        chosen.band = (self.bands.0.edge(q95).min(edge_99), edge_99);
        let plain = &self.issued[self.home];
        self.spoken.push_back([(q95, q99), chosen.band, (plain.q95, plain.q99), chosen.free]);
        chosen
    }

    fn choose(&mut self, choice: &Choice, tick: &TickFeatures) -> Chosen {
        let losses = &self.judge.experts()[..self.candidates];
        let (model_95, model) = match choice {
            Choice::Off => (STATIC, STATIC),
            Choice::Auto => (
                self.leader_95.choose(losses.iter().map(|e| e.loss_95)),
                self.leader_99.choose(losses.iter().map(|e| e.loss_99)),
            ),
            Choice::FixedShare => (
                self.shared_95.median(&self.issued, |d| d.q95),
                self.shared_99.median(&self.issued, |d| d.q99),
            ),
            Choice::Model(name) => {
                let i = self.experts.iter().position(|e| e.name() == name).unwrap_or(STATIC);
                (i, i)
            }
        };
        let mut distribution = self.issued[model].clone().with_request_bytes(tick.mean_request_bytes);
        distribution.q95 = self.issued[model_95].q95;
        let mut free = (distribution.q95, distribution.q99);
        if *choice == Choice::Auto {
            let (at, home) = (|e: usize| &losses[e], self.home);
            let plain = &self.issued[home];
            let trust_95 = trust(at(model_95).loss_95, at(home).loss_95);
            let trust_99 = trust(at(model).loss_99, at(home).loss_99);
            let between = |trust: f64, led: f64, plain: f64| trust * led + (1.0 - trust) * plain;
            let led = (distribution.q95, distribution.q99);
            free = (between(trust_95, led.0, plain.q95), between(trust_99, led.1, plain.q99));
            // A large lead at .95, where misses are many, is no luck; at .99 a single burst decides.
            distribution.q95 =
                between(trust_95 * self.guards.0.left().max(trust_95 * trust_95), led.0, plain.q95);
            distribution.q99 = between(trust_99 * self.guards.1.left(), led.1, plain.q99);
        }
        distribution.q95 = distribution.q95.min(distribution.q99);
        // What a median of experts is worth is told by the one it follows most.
        let trusted = if *choice == Choice::FixedShare { self.shared_99.heaviest() } else { model };
        let experts = self.judge.experts();
        let advantage = advantage(&experts[trusted], &experts[STATIC]);
        Chosen { model, distribution, band: (0.0, 0.0), free, advantage }
    }
}
