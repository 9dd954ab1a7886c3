//! The Predictive Log Manager: one call a tick.

use super::clients::Clients;
use super::features::{FeatureTracker, TickFeatures};
use super::groups::Groups;
use super::models::{self, SlidingQuantile};
use super::panel::{Chosen, Panel};
use super::recurrence::Recurrence;
use super::tick::Tick;
use super::*;
use crate::history::{Pattern, Resolution, Sample, Scope};
use crate::types::ProgramId;
use std::collections::{BTreeMap, VecDeque};

const HALF_LIFE_SECONDS: f64 = 60.0;
/// A pause or a step back beyond this is no jitter.
const CLOCK_JUMP_NS: u64 = 2_000_000_000;
const BIRTH_TAU: f64 = 0.9;
const BIRTH_LEASE_NS: u64 = 2_000_000_000;
const BIRTH_LEASES_MAX: usize = 64;
const CLIENTS_REPORTED: usize = 16;
/// How long a flood that stopped is still waited for.
const CALM_NS: u64 = 9_000_000_000;
/// Ticks of kept history that are relived at a start.
const WARM_UP_TICKS: i64 = 12_000;

/// The manager. Owns the aggregated history and all models.
pub struct PredictiveLogManager {
    config: ManagerConfig,
    pattern: Pattern,
    tracker: FeatureTracker,
    onsets: Onsets,
    panel: Panel,
    fallback: FallbackState,
    health: Health,
    seal: SlidingQuantile,
    seal_window: VecDeque<u64>,
    seal_bytes: u64,
    recurrence: Recurrence,
    groups: Groups,
    clients: Clients,
    mixture: ClientMixture,
    births: BirthHistogram,
    leases: VecDeque<BirthLease>,
    /// End of the last tick; `None` before the first.
    end_ns: Option<u64>,
    held: Vec<Sample>,
    last: Forecast,
}

impl PredictiveLogManager {
    /// Knows nothing yet.
    pub fn new(config: ManagerConfig) -> Self {
        let second = config.ticks(1_000_000_000);
        let model = |name| models::by_name(name, second, config.static_bytes);
        let experts: Vec<_> = match &config.choice {
            Choice::Off if config.lean => model("static").into_iter().collect(),
            Choice::Model(name) if config.lean => ["static", name].into_iter().filter_map(model).collect(),
            _ => {
                let all = models::POOL.iter().chain(&models::NAIVE);
                let kept = all.filter(|n| **n == "static" || !config.without.iter().any(|w| w == *n));
                kept.filter_map(|name| model(name)).collect()
            }
        };
        let candidates = experts.iter().filter(|e| models::POOL.contains(&e.name())).count();
        Self::with_experts(config, experts, candidates)
    }

    /// With one model from outside beside static, always chosen.
    pub fn with_model(mut config: ManagerConfig, model: Box<dyn Model>) -> Self {
        config.choice = Choice::Model(model.name().into());
        let fixed = models::Static::new(config.static_bytes);
        Self::with_experts(config, vec![Box::new(fixed), model], 1)
    }

    fn with_experts(config: ManagerConfig, experts: Vec<Box<dyn Model>>, candidates: usize) -> Self {
        let horizon = config.ticks(config.horizon_ns);
        let second = config.ticks(1_000_000_000);
        PredictiveLogManager {
            pattern: Pattern::default(),
            tracker: FeatureTracker::new(horizon),
            onsets: Onsets::default(),
            panel: Panel::new(experts, candidates, horizon, config.interval_ns),
            fallback: FallbackState::new(),
            health: Health::default(),
            seal: SlidingQuantile::new("seal", 60 * second as usize),
            seal_window: VecDeque::new(),
            seal_bytes: 0,
            recurrence: Recurrence::new(horizon, config.ticks(CALM_NS)),
            groups: Groups::new(horizon),
            clients: Clients::default(),
            mixture: ClientMixture::new(horizon as usize, HALF_LIFE_SECONDS * second as f64),
            births: BirthHistogram::default(),
            leases: VecDeque::new(),
            end_ns: None,
            held: Vec::new(),
            last: Forecast::none(config.horizon_ns),
            config,
        }
    }

    /// The aggregated history, to be queried and saved.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// `--predict` at run time. With all models running none has to learn anew.
    pub fn set_choice(&mut self, choice: Choice) {
        self.config.choice = choice;
    }

    /// Age at which segments are sealed, changed at run time.
    pub fn set_seal_after(&mut self, ns: u64) {
        self.config.seal_after_ns = ns;
    }

    /// `program` was started by `parent`: births back off to it.
    pub fn set_parent(&mut self, program: ProgramId, parent: ProgramId) {
        self.births.set_parent(program, parent);
    }

    /// What models learned that is worth keeping, by their names.
    pub fn weights(&self) -> Vec<(String, Vec<u8>)> {
        self.panel.weights()
    }

    /// Gives models back what `weights` kept. Returns how many took it; others start anew.
    pub fn restore_weights(&mut self, kept: &[(String, Vec<u8>)]) -> usize {
        self.panel.restore_weights(kept)
    }

    /// Scores of what was forecast since the last call.
    pub fn take_scored(&mut self) -> Scored {
        self.panel.take_scored()
    }

    /// Log-loss in nats of the client forecast whose horizon ended with the last tick.
    pub fn last_client_loss(&self) -> Option<f64> {
        self.mixture.last_loss()
    }

    /// Takes over a kept history: births at once, and up to ten minutes of 50 ms ticks are relived, so
    /// that a restarted gateway need not learn anew. Before the first `tick`.
    pub fn warm_up(&mut self, pattern: Pattern) {
        for birth in pattern.births.completed() {
            self.births.observe(ProgramId(birth.program), birth.bytes);
        }
        let width = Resolution::Ms50.ns();
        let window = |scope| pattern.window(scope, Resolution::Ms50, i64::MIN, i64::MAX);
        let mut ticks: BTreeMap<i64, (u64, u64, Tick)> = BTreeMap::new();
        for b in window(Scope::Total) {
            ticks.entry(b.at_ns / width).or_default().0 += b.bytes;
            ticks.entry(b.at_ns / width).or_default().1 += b.requests as u64;
        }
        for program in pattern.programs() {
            for b in window(Scope::Program(program)) {
                if let Some(t) = ticks.get_mut(&(b.at_ns / width)) {
                    t.2.add_program(program, b.bytes, b.requests as u64);
                }
            }
        }
        let last = ticks.keys().next_back().copied().unwrap_or(0);
        let first = ticks.keys().copied().find(|t| last - t < WARM_UP_TICKS);
        self.pattern = pattern;
        if self.config.interval_ns as i64 != width {
            return;
        }
        for number in first.unwrap_or(last + 1)..=last {
            let mut tick = Tick::default();
            if let Some((bytes, requests, programs)) = ticks.remove(&number) {
                tick = programs;
                // Programs keep fewer buckets than the total does.
                (tick.sums.bytes, tick.sums.requests) = (bytes, requests);
            }
            self.one_tick(&tick);
        }
    }

    /// A tick of the loop: what was written since the last one, and what the last call took. Late or
    /// early calls are put right by the samples' own times; a call too early for a tick repeats the
    /// last forecast.
    pub fn tick(&mut self, now_ns: u64, samples: &[Sample], tick_cost_ns: u64) -> Forecast {
        let interval_ns = self.config.interval_ns.max(1);
        self.absorb(now_ns, samples);
        self.held.extend_from_slice(samples);
        let end_ns = self.end_ns.unwrap_or(now_ns.saturating_sub(interval_ns));
        self.health.tick_ns = tick_cost_ns;
        self.health.clock_jump_ns = 0;
        let mut count = (now_ns.saturating_sub(end_ns) + interval_ns / 2) / interval_ns;
        let mut start_ns = end_ns;
        if now_ns + CLOCK_JUMP_NS < end_ns || now_ns > end_ns + CLOCK_JUMP_NS {
            self.health.clock_jump_ns = now_ns as i64 - end_ns as i64;
            (count, start_ns) = (1, now_ns.saturating_sub(interval_ns));
        }
        if count == 0 {
            return self.last.clone();
        }
        let mut held = std::mem::take(&mut self.held);
        held.sort_by_key(|s| s.at_ns);
        let mut rest = &held[..];
        let mut chosen = None;
        for i in 1..=count {
            let until_ns = start_ns + i * interval_ns;
            let many = if i == count { rest.len() } else { rest.partition_point(|s| s.at_ns <= until_ns) };
            let mut tick = Tick::default();
            rest[..many].iter().for_each(|s| tick.add(s));
            rest = &rest[many..];
            chosen = Some(self.one_tick(&tick));
        }
        self.end_ns = Some(start_ns + count * interval_ns);
        held.clear();
        self.held = held;
        if let Some((features, chosen)) = chosen {
            self.last = self.report(now_ns, &features, chosen);
        }
        self.last.clone()
    }

    /// Keeps the samples in the history and makes leases for clients that just appeared.
    fn absorb(&mut self, now_ns: u64, samples: &[Sample]) {
        let (births, leases) = (&mut self.births, &mut self.leases);
        self.pattern.births.complete(now_ns, |program, bytes| births.observe(program, bytes));
        self.pattern.absorb(samples, |s| {
            if let Some(bytes) = births.quantile(s.program, BIRTH_TAU)
                && bytes >= 1.0
            {
                let until_ns = s.at_ns + BIRTH_LEASE_NS;
                if leases.len() == BIRTH_LEASES_MAX {
                    leases.pop_front();
                }
                let (client, program) = (s.client, s.program);
                leases.push_back(BirthLease { client, program, bytes: bytes as u64, until_ns });
            }
        });
        leases.retain(|l| l.until_ns > now_ns);
    }

    fn one_tick(&mut self, tick: &Tick) -> (TickFeatures, Chosen) {
        let onset = self.onsets.observe(&tick.programs);
        let features = TickFeatures { onset, ..self.tracker.push(tick.sums) };
        let seasoned = self.health.seasoned();
        let chosen = self.panel.step(&features, &self.config.choice, seasoned);
        self.health.history_ns += self.config.interval_ns;
        if features.complete
            && (features.tick + 1).is_multiple_of(features.horizon_ticks as u64)
            && features.horizon_bytes > 0
        {
            self.health.bursts += 1;
        }
        self.follow_seal(tick.sums.bytes);
        self.recurrence.observe(tick.sums.bytes);
        self.groups.observe(&tick.programs);
        self.clients.observe(&tick.clients);
        let bytes: Vec<_> = tick.programs.iter().map(|p| (p.0, p.1)).collect();
        self.mixture.observe(&bytes);
        (features, chosen)
    }

    fn follow_seal(&mut self, bytes: u64) {
        self.seal_window.push_back(bytes);
        self.seal_bytes += bytes;
        while self.seal_window.len() > self.config.ticks(self.config.seal_after_ns) as usize {
            self.seal_bytes -= self.seal_window.pop_front().unwrap_or(0);
        }
        self.seal.push(self.seal_bytes);
    }

    fn report(&mut self, now_ns: u64, features: &TickFeatures, chosen: Chosen) -> Forecast {
        (self.health.misses, self.health.windows) = self.panel.misses();
        self.health.advantage = chosen.advantage;
        let judged = !matches!(self.config.choice, Choice::Model(_));
        let off = self.config.choice == Choice::Off;
        let mut fallback = self.fallback.update(now_ns, &self.health, judged).cloned();
        if off {
            fallback = Some(Fallback::Off);
        } else if !self.config.guarded {
            fallback = None;
        }
        let (total, band) = (chosen.distribution, chosen.band);
        let programs = self.programs();
        Forecast {
            at_ns: now_ns,
            horizon_ns: self.config.horizon_ns,
            model: self.panel.name(chosen.model).to_string(),
            confidence: if off { 0.0 } else { self.health.confidence() },
            fallback,
            expected_requests: total.expected_requests,
            expected_request_bytes: total.mean_request_bytes,
            expected_bytes: total.expected_bytes,
            actual_requests: features.horizon_requests,
            actual_bytes: features.horizon_bytes,
            clients: self.clients(&programs),
            total,
            band,
            seal_bytes_q50: self.seal.quantile(0.5) as f64,
            largest_bytes: self.panel.largest_bytes(),
            credible_bytes: match self.panel.foresees(chosen.model) {
                true => u64::MAX,
                false => self.recurrence.credible_bytes(),
            },
            programs,
            births: self.leases.iter().copied().collect(),
            client_log_loss_nats: self.mixture.log_loss(),
        }
    }

    fn programs(&mut self) -> Vec<ProgramForecast> {
        let own: Vec<_> = self.groups.forecast();
        let shares: Vec<f64> = own.iter().map(|(p, _)| p.map_or(0.0, |p| self.mixture.share(p))).collect();
        let rest = (1.0 - shares.iter().sum::<f64>()).max(0.0);
        own.into_iter()
            .zip(shares)
            .map(|((program, distribution), share)| ProgramForecast {
                program,
                expected_bytes: distribution.expected_bytes,
                share: if program.is_some() { share } else { rest },
                distribution,
            })
            .collect()
    }

    fn clients(&self, programs: &[ProgramForecast]) -> Vec<ClientForecast> {
        let live = self.clients.heaviest(CLIENTS_REPORTED);
        let all = self.clients.recent_bytes().max(1.0);
        live.into_iter()
            .filter_map(|c| {
                // A program without a forecast of its own is too light to matter.
                let of = programs.iter().find(|p| p.program == Some(c.program))?;
                let distribution = of.distribution.scaled(c.share);
                Some(ClientForecast {
                    client: c.client,
                    program: c.program,
                    expected_bytes: distribution.expected_bytes,
                    recent_bytes: c.recent_bytes,
                    age_ns: c.ticks as u64 * self.config.interval_ns,
                    share: c.recent_bytes / all,
                    distribution,
                })
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
