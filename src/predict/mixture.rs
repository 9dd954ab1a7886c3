//! Who writes next: a distribution over programs for the bytes of the next horizon. Seven simple views
//! (fast and slow shares, the last horizon, what followed this program, this pair of programs, this program and
//! so much silence, and this very set of programs) are mixed by how well each did, and scored in nats.

use crate::types::ProgramId;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Slots for programs; slot 0 is everyone else.
const SLOTS: usize = 33;
const VIEWS: usize = 7;
/// Mass every view keeps for any program.
const SMOOTHING: f32 = 0.015;
/// What followed is forgotten with a half-life of about ten minutes of activity.
const FADE: f32 = 0.9999;
const RATE: f32 = 0.15;
const SHARE: f32 = 0.005;
const PAIRS_MAX: usize = 256;

type Shares = [f32; SLOTS];

struct Pending {
    views: [Shares; VIEWS],
    mixed: Shares,
    key: (usize, usize),
    quiet: (usize, u32),
    set: u64,
}

/// The mixture. `PENDING` forecasts wait for their horizon to end.
pub struct ClientMixture {
    horizon_ticks: usize,
    slots: HashMap<ProgramId, usize>,
    owners: [Option<ProgramId>; SLOTS],
    ticks: VecDeque<Vec<(usize, f32)>>,
    window: [f64; SLOTS],
    fast: Shares,
    slow: Shares,
    after_one: HashMap<usize, Shares>,
    after_pair: HashMap<(usize, usize), Shares>,
    after_quiet: HashMap<(usize, u32), Shares>,
    after_set: HashMap<u64, Shares>,
    last: (usize, usize),
    quiet_ticks: u32,
    weights: [f32; VIEWS],
    pending: VecDeque<Pending>,
    mixed: Shares,
    loss: (f64, f64),
    decay: f64,
    last_loss: Option<f64>,
}

impl ClientMixture {
    /// Times in ticks.
    pub fn new(horizon_ticks: usize, half_life_ticks: f64) -> Self {
        ClientMixture {
            horizon_ticks: horizon_ticks.max(1),
            slots: HashMap::new(),
            owners: [None; SLOTS],
            ticks: VecDeque::new(),
            window: [0.0; SLOTS],
            fast: [0.0; SLOTS],
            slow: [0.0; SLOTS],
            after_one: HashMap::new(),
            after_pair: HashMap::new(),
            after_quiet: HashMap::new(),
            after_set: HashMap::new(),
            last: (0, 0),
            quiet_ticks: 0,
            weights: [1.0 / VIEWS as f32; VIEWS],
            pending: VecDeque::new(),
            mixed: [0.0; SLOTS],
            loss: (0.0, 0.0),
            decay: 0.5f64.powf(1.0 / half_life_ticks.max(1.0)),
            last_loss: None,
        }
    }

    /// A finished tick: bytes by program.
    pub fn observe(&mut self, programs: &[(ProgramId, u64)]) {
        let tick: Vec<(usize, f32)> = programs
            .iter()
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(p, bytes)| (self.slot(*p), *bytes as f32))
            .collect();
        self.slide(tick);
        self.judge();
        self.predict();
    }

    /// Expected share of a program in the bytes of the next horizon.
    pub fn share(&self, program: ProgramId) -> f64 {
        self.slots.get(&program).map_or(0.0, |s| self.mixed[*s] as f64)
    }

    /// Decayed mean log-loss of the mixture, nats; 0 before any.
    pub fn log_loss(&self) -> f64 {
        if self.loss.1 > 0.0 { self.loss.0 / self.loss.1 } else { 0.0 }
    }

    /// Log-loss of the horizon that ended with the last tick, when it held any bytes.
    pub fn last_loss(&self) -> Option<f64> {
        self.last_loss
    }

    fn slide(&mut self, tick: Vec<(usize, f32)>) {
        let total: f32 = tick.iter().map(|t| t.1).sum();
        self.quiet_ticks = if total > 0.0 { 0 } else { self.quiet_ticks.saturating_add(1) };
        if total > 0.0 {
            for (shares, step) in [(&mut self.fast, 0.3), (&mut self.slow, 0.03)] {
                shares.iter_mut().for_each(|s| *s *= 1.0 - step);
                tick.iter().for_each(|(slot, bytes)| shares[*slot] += step * bytes / total);
            }
            let first = tick.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |t| t.0);
            if first != self.last.0 {
                self.last = (first, self.last.0);
            }
        }
        tick.iter().for_each(|(slot, bytes)| self.window[*slot] += *bytes as f64);
        self.ticks.push_back(tick);
        if self.ticks.len() > self.horizon_ticks
            && let Some(old) = self.ticks.pop_front()
        {
            for (slot, bytes) in old {
                self.window[slot] = (self.window[slot] - bytes as f64).max(0.0);
            }
        }
    }

    fn judge(&mut self) {
        self.last_loss = None;
        if self.pending.len() < self.horizon_ticks {
            return;
        }
        let Some(then) = self.pending.pop_front() else { return };
        let total: f64 = self.window.iter().sum();
        if total <= 0.0 {
            return;
        }
        let mut outcome: Shares = std::array::from_fn(|s| (self.window[s] / total) as f32);
        // Who was unknown when this was forecast counts as "someone else".
        for s in 1..SLOTS {
            if then.mixed[s] <= 0.0 {
                outcome[0] += std::mem::take(&mut outcome[s]);
            }
        }
        let loss = cross_entropy(&outcome, &then.mixed) as f64;
        self.loss = (self.loss.0 * self.decay + loss, self.loss.1 * self.decay + 1.0);
        self.last_loss = Some(loss);
        for (w, view) in self.weights.iter_mut().zip(&then.views) {
            *w *= (-RATE * cross_entropy(&outcome, view)).exp();
        }
        let sum: f32 = self.weights.iter().sum();
        self.weights.iter_mut().for_each(|w| *w = (1.0 - SHARE) * *w / sum + SHARE / VIEWS as f32);
        learn(&mut self.after_one, then.key.0, &outcome);
        learn(&mut self.after_pair, then.key, &outcome);
        learn(&mut self.after_quiet, then.quiet, &outcome);
        learn(&mut self.after_set, then.set, &outcome);
    }

    fn predict(&mut self) {
        let window: Shares = std::array::from_fn(|s| self.window[s] as f32);
        let one = self.after_one.get(&self.last.0).unwrap_or(&self.slow);
        let pair = self.after_pair.get(&self.last).unwrap_or(one);
        let quiet_key = (self.last.0, (self.quiet_ticks + 1).ilog2());
        let quiet = self.after_quiet.get(&quiet_key).unwrap_or(one);
        // Slots are few: a bit each.
        let set_key = (0..SLOTS).filter(|s| self.window[*s] > 0.0).fold(0u64, |set, s| set | 1 << s);
        let set = self.after_set.get(&set_key).unwrap_or(one);
        let known = self.slots.len() as f32 + 1.0;
        let views =
            [&self.fast, &self.slow, &window, one, pair, quiet, set].map(|view| self.smoothed(view, known));
        self.mixed = std::array::from_fn(|s| (0..VIEWS).map(|v| self.weights[v] * views[v][s]).sum());
        let (mixed, key) = (self.mixed, self.last);
        self.pending.push_back(Pending { views, mixed, key, quiet: quiet_key, set: set_key });
    }

    fn smoothed(&self, view: &Shares, known: f32) -> Shares {
        let sum: f32 = view.iter().sum();
        let scale = if sum > 0.0 { (1.0 - SMOOTHING) / sum } else { 0.0 };
        let rest = if sum > 0.0 { SMOOTHING } else { 1.0 };
        std::array::from_fn(|s| {
            let there = s == 0 || self.owners[s].is_some();
            view[s] * scale + if there { rest / known } else { 0.0 }
        })
    }

    /// The slot of a program; the one that faded most makes room.
    fn slot(&mut self, program: ProgramId) -> usize {
        if let Some(slot) = self.slots.get(&program) {
            return *slot;
        }
        let free = (1..SLOTS).find(|s| self.owners[*s].is_none());
        let slot = free.or_else(|| {
            let least = (1..SLOTS).min_by(|a, b| self.slow[*a].total_cmp(&self.slow[*b]))?;
            (self.slow[least] < 1e-4 && self.window[least] <= 0.0).then_some(least)
        });
        let Some(slot) = slot else { return 0 };
        if let Some(old) = self.owners[slot].replace(program) {
            self.slots.remove(&old);
            self.clear(slot);
        }
        self.slots.insert(program, slot);
        slot
    }

    fn clear(&mut self, slot: usize) {
        (self.fast[slot], self.slow[slot], self.window[slot]) = (0.0, 0.0, 0.0);
        self.after_one.remove(&slot);
        self.after_pair.retain(|k, _| k.0 != slot && k.1 != slot);
        self.after_quiet.retain(|k, _| k.0 != slot);
        self.after_set.retain(|k, _| k >> slot & 1 == 0);
        let tables = self.after_one.values_mut().chain(self.after_pair.values_mut());
        for shares in tables.chain(self.after_quiet.values_mut()).chain(self.after_set.values_mut()) {
            shares[slot] = 0.0;
        }
    }
}

fn learn<K: Eq + Hash>(table: &mut HashMap<K, Shares>, key: K, outcome: &Shares) {
    if table.len() >= PAIRS_MAX && !table.contains_key(&key) {
        table.clear();
    }
    table.entry(key).or_insert([0.0; SLOTS]).iter_mut().zip(outcome).for_each(|(s, o)| *s = *s * FADE + o);
}

/// -sum o ln p; a slot that had no chance at all when forecast counts as one in a million.
fn cross_entropy(outcome: &Shares, view: &Shares) -> f32 {
    outcome.iter().zip(view).filter(|(o, _)| **o > 0.0).map(|(o, p)| -o * p.max(1e-6).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_who_follows_whom() {
        let mut m = ClientMixture::new(2, 1200.0);
        // Three programs in turn, four ticks each.
        for i in 0..3000u32 {
            m.observe(&[(ProgramId(1 + i / 4 % 3), 1000)]);
        }
        // In the second tick of a turn the next horizon is still this program's.
        m.observe(&[(ProgramId(1), 1000)]);
        let here = ProgramId(1);
        assert!(m.share(here) > 0.4, "{}", m.share(here));
        assert!(m.log_loss() > 0.0 && m.log_loss() < 0.9, "{}", m.log_loss());
        assert_eq!(m.share(ProgramId(99)), 0.0);
    }

    #[test]
    fn one_writer_is_certain_and_many_are_bounded() {
        let mut m = ClientMixture::new(20, 1200.0);
        (0..2000).for_each(|_| m.observe(&[(ProgramId(7), 10)]));
        assert!(m.log_loss() < 0.05 && m.share(ProgramId(7)) > 0.95);
        (0..5000).for_each(|i| m.observe(&[(ProgramId(i), 10)]));
        assert!(m.slots.len() < SLOTS && m.after_pair.len() <= PAIRS_MAX);
        let sum: f32 = m.mixed.iter().sum();
        assert!((sum - 1.0).abs() < 0.05, "{sum}");
    }
}
