//! Forecasts judged on what came, once their horizon is over. Losses decay with a 60 s half-life.

use super::Distribution;
use std::collections::VecDeque;

/// Until that is longer, losses are forgotten with a half-life of this part of the time there was.
const HALF_LIFE_OF_AGE: f64 = 0.25;

/// The quantile ("pinball") loss: what over- and under-reserving cost when the odds are tau to 1 - tau.
pub fn pinball(quantile: f64, outcome: f64, tau: f64) -> f64 {
    let miss = outcome - quantile;
    if miss >= 0.0 { tau * miss } else { (tau - 1.0) * miss }
}

/// Decayed losses of one expert.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expert {
    pub loss_95: f64,
    pub loss_99: f64,
}

/// Keeps what every expert said until it can be judged.
#[derive(Clone, Debug)]
pub struct Judge {
    horizon_ticks: usize,
    half_life_ticks: f64,
    /// Ticks judged.
    seen: f64,
    pending: VecDeque<Vec<(f64, f64)>>,
    experts: Vec<Expert>,
    last: Vec<Expert>,
}

impl Judge {
    /// For so many experts; times in ticks.
    pub fn new(experts: usize, horizon_ticks: usize, half_life_ticks: f64) -> Self {
        Judge {
            horizon_ticks: horizon_ticks.max(1),
            half_life_ticks: half_life_ticks.max(1.0),
            seen: 0.0,
            pending: VecDeque::new(),
            experts: vec![Expert::default(); experts],
            last: vec![Expert::default(); experts],
        }
    }

    /// A tick ended: `outcome` is the bytes of the horizon that ended with it. True when there was a
    /// forecast to judge.
    pub fn observe(&mut self, outcome: f64) -> bool {
        if self.pending.len() < self.horizon_ticks {
            return false;
        }
        let Some(issued) = self.pending.pop_front() else { return false };
        self.seen += 1.0;
        // At first sooner: what beginners said is no measure of them.
        let half_life =
            (self.seen * HALF_LIFE_OF_AGE).clamp(self.half_life_ticks / 6.0, self.half_life_ticks);
        let decay = 0.5f64.powf(1.0 / half_life);
        for (i, (q95, q99)) in issued.into_iter().enumerate() {
            let loss = Expert { loss_95: pinball(q95, outcome, 0.95), loss_99: pinball(q99, outcome, 0.99) };
            let sum = &mut self.experts[i];
            sum.loss_95 = sum.loss_95 * decay + loss.loss_95;
            sum.loss_99 = sum.loss_99 * decay + loss.loss_99;
            self.last[i] = loss;
        }
        true
    }

    /// What all said at this tick.
    pub fn push(&mut self, issued: &[Distribution]) {
        self.pending.push_back(issued.iter().map(|d| (d.q95, d.q99)).collect());
    }

    /// Decayed losses.
    pub fn experts(&self) -> &[Expert] {
        &self.experts
    }
    /// Losses of the tick judged last.
    pub fn last(&self) -> &[Expert] {
        &self.last
    }
}

/// Sums over judged ticks, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scored {
    pub ticks: f64,
    pub pinball_95: f64,
    pub pinball_99: f64,
    pub covered_95: f64,
    pub covered_99: f64,
    /// The same of the reported band; what follows is of the band as well.
    pub band_pinball_95: f64,
    pub band_pinball_99: f64,
    pub band_covered_95: f64,
    pub band_covered_99: f64,
    pub active: f64,
    pub active_covered_99: f64,
    pub bytes: f64,
    /// Bytes at or below the .99 quantile.
    pub bytes_covered_99: f64,
}

impl Scored {
    /// Adds a judged forecast: its quantiles, the edges of the band around them, and what came.
    pub fn add(&mut self, (q95, q99): (f64, f64), (edge_95, edge_99): (f64, f64), outcome: f64) {
        let hit = |q: f64| (outcome <= q) as u8 as f64;
        self.ticks += 1.0;
        self.pinball_95 += pinball(q95, outcome, 0.95);
        self.pinball_99 += pinball(q99, outcome, 0.99);
        self.covered_95 += hit(q95);
        self.covered_99 += hit(q99);
        self.band_pinball_95 += pinball(edge_95, outcome, 0.95);
        self.band_pinball_99 += pinball(edge_99, outcome, 0.99);
        self.band_covered_95 += hit(edge_95);
        self.band_covered_99 += hit(edge_99);
        if outcome > 0.0 {
            self.active += 1.0;
            self.active_covered_99 += hit(edge_99);
        }
        self.bytes += outcome;
        self.bytes_covered_99 += outcome.min(edge_99);
    }
    /// Share of ticks that the band covered at .95, .99, of active ones at .99, of bytes at .99; 1 where there were none.
    pub fn coverage(&self) -> [f64; 4] {
        [
            share(self.band_covered_95, self.ticks),
            share(self.band_covered_99, self.ticks),
            share(self.active_covered_99, self.active),
            share(self.bytes_covered_99, self.bytes),
        ]
    }

    /// Share of ticks that the model's own quantiles covered, at .95 and .99.
    pub fn quantile_coverage(&self) -> [f64; 2] {
        [share(self.covered_95, self.ticks), share(self.covered_99, self.ticks)]
    }
}

fn share(part: f64, all: f64) -> f64 {
    if all > 0.0 { part / all } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinball_is_asymmetric() {
        assert!((pinball(0.0, 100.0, 0.99) - 99.0).abs() < 1e-9);
        assert!((pinball(100.0, 0.0, 0.99) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn judged_a_horizon_later_and_forgotten() {
        let mut j = Judge::new(2, 3, 60.0);
        let say = [Distribution::point(0.0), Distribution::point(100.0)];
        for _ in 0..3 {
            assert!(!j.observe(100.0));
            j.push(&say);
        }
        assert!(j.observe(100.0));
        assert_eq!(j.last()[1], Expert::default());
        assert!((j.experts()[0].loss_99 - 99.0).abs() < 1e-9);
        // Young, it forgets with a sixth of the half-life.
        let before = j.experts()[0].loss_99;
        for _ in 0..10 {
            j.push(&say);
            j.observe(0.0);
        }
        assert!((j.experts()[0].loss_99 - before / 2.0).abs() < 1e-9);
    }

    #[test]
    fn coverages() {
        let mut s = Scored::default();
        s.add((0.0, 10.0), (0.0, 10.0), 0.0);
        s.add((0.0, 10.0), (0.0, 20.0), 40.0);
        assert_eq!(s.coverage(), [0.5, 0.5, 0.0, 0.5]);
        assert_eq!(s.quantile_coverage(), [0.5, 0.5]);
    }
}
