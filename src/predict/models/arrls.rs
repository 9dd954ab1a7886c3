//! "ar-rls": an autoregression of the log of the next horizon's bytes, fitted anew at each tick by
//! recursive least squares with forgetting (Haykin, Adaptive Filter Theory, 4th ed., table 9.1):
//!
//! ```text
//! k = P u / (lambda + u' P u)      e = d - w' u      w += k e      P = (P - k u' P) / lambda
//! ```
//!
//! Regressors `u`, logs of bytes: the last eight ticks, the horizon that ended now, the same place a season
//! (about 1 s) ago, two moving averages, the time since the last write, and one. The spread around the
//! point comes from past errors, as with the other point forecasters.

use super::Conformal;
use crate::predict::{Distribution, Model, TickFeatures};
use std::collections::VecDeque;

const LAGS: usize = 8;
/// Lags, last horizon, season, two averages, idle time, one.
const INPUTS: usize = LAGS + 6;
/// Half the trust is gone after about 1,400 ticks.
const LAMBDA: f64 = 0.9995;
/// Initial diagonal of `P`, and the trace at which forgetting pauses: regressors that stay constant would
/// otherwise let `P` grow without bound ("wind-up").
const P_START: f64 = 100.0;
const P_TRACE_MAX: f64 = INPUTS as f64 * P_START;

type Vector = [f64; INPUTS];

/// Natural logs of bytes are divided by this, so that regressors are about one.
const LOG_SCALE: f64 = 10.0;

/// The model.
pub struct ArRls {
    season_ticks: usize,
    /// Logs of past ticks, newest first, one season and the lags long.
    past: VecDeque<f64>,
    weights: Vector,
    p: Box<[Vector; INPUTS]>,
    pending: VecDeque<Vector>,
    largest: f64,
    spread: Conformal,
}

impl ArRls {
    /// `season_ticks`: about one second in ticks.
    pub fn new(season_ticks: usize) -> Self {
        let mut p = Box::new([[0.0; INPUTS]; INPUTS]);
        (0..INPUTS).for_each(|i| p[i][i] = P_START);
        ArRls {
            season_ticks: season_ticks.max(1),
            past: VecDeque::new(),
            weights: [0.0; INPUTS],
            p,
            pending: VecDeque::new(),
            largest: 0.0,
            spread: Conformal::default(),
        }
    }

    fn regressors(&self, tick: &TickFeatures) -> Vector {
        let past = |i: usize| self.past.get(i).copied().unwrap_or(0.0);
        let idle = (1.0 + tick.idle_ticks.min(1 << 14) as f64).ln() / LOG_SCALE;
        std::array::from_fn(|i| match i.checked_sub(LAGS) {
            None => past(i),
            Some(0) => scaled_log(tick.horizon_bytes as f64),
            Some(1) => past(self.season_ticks - 1),
            Some(2) => scaled_log(tick.ewma_fast),
            Some(3) => scaled_log(tick.ewma_slow),
            Some(4) => idle,
            Some(_) => 1.0,
        })
    }

    /// One step of recursive least squares towards `wanted` at regressors `u`.
    fn learn(&mut self, u: &Vector, wanted: f64) {
        let pu: Vector = std::array::from_fn(|i| dot(&self.p[i], u));
        let gain = 1.0 / (LAMBDA + dot(&pu, u));
        let error = wanted - dot(&self.weights, u);
        self.weights.iter_mut().zip(&pu).for_each(|(w, k)| *w += gain * k * error);
        for (row, pu_i) in self.p.iter_mut().zip(&pu) {
            row.iter_mut().zip(&pu).for_each(|(p, pu_j)| *p -= gain * pu_i * pu_j);
        }
        let trace: f64 = (0..INPUTS).map(|i| self.p[i][i]).sum();
        if trace < P_TRACE_MAX {
            self.p.iter_mut().flatten().for_each(|p| *p /= LAMBDA);
        }
    }
}

fn dot(a: &Vector, b: &Vector) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn scaled_log(bytes: f64) -> f64 {
    bytes.max(0.0).ln_1p() / LOG_SCALE
}

impl Model for ArRls {
    fn name(&self) -> &str {
        "ar-rls"
    }

    fn observe(&mut self, tick: &TickFeatures) {
        self.past.push_front(scaled_log(tick.bytes as f64));
        self.past.truncate(self.season_ticks.max(LAGS));
        self.largest = self.largest.max(tick.horizon_bytes as f64);
        let full = self.pending.len() >= tick.horizon_ticks as usize;
        if full && let Some(then) = self.pending.pop_front() {
            self.learn(&then, scaled_log(tick.horizon_bytes as f64));
        }
        let u = self.regressors(tick);
        let point = (dot(&self.weights, &u) * LOG_SCALE).clamp(0.0, self.largest.ln_1p()).exp_m1();
        self.pending.push_back(u);
        // Before the first lesson there is no point to speak of.
        if full {
            self.spread.observe(tick, point);
        }
    }

    fn forecast(&mut self) -> Distribution {
        self.spread.distribution()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(x: &mut u64) -> f64 {
        *x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*x >> 40) as f64 / (1u64 << 24) as f64 - 0.5
    }

    #[test]
    fn finds_the_coefficients_of_a_linear_system() {
        let mut m = ArRls::new(20);
        let truth: Vector = std::array::from_fn(|i| (i as f64 - 6.0) / 7.0);
        let mut x = 3;
        for _ in 0..3000 {
            let u: Vector = std::array::from_fn(|_| noise(&mut x));
            let wanted = dot(&truth, &u) + 0.001 * noise(&mut x);
            m.learn(&u, wanted);
        }
        let worst = m.weights.iter().zip(&truth).map(|(w, t)| (w - t).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-3, "{worst}");
    }

    #[test]
    fn constant_regressors_do_not_wind_up() {
        let mut m = ArRls::new(20);
        (0..200_000).for_each(|_| m.learn(&[0.5; INPUTS], 1.0));
        assert!(m.p.iter().flatten().all(|p| p.is_finite() && p.abs() <= 2.0 * P_TRACE_MAX));
        assert!((dot(&m.weights, &[0.5; INPUTS]) - 1.0).abs() < 1e-6);
    }
}
