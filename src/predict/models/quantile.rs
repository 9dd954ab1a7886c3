//! The empirical distribution of the last seconds' outcomes, exact.

use crate::predict::{CLASSES, Distribution, Model, TickFeatures, class_of};
use std::collections::VecDeque;

/// Outcomes of the last `window` ticks, sorted.
pub struct SlidingQuantile {
    name: &'static str,
    window: usize,
    order: VecDeque<u64>,
    sorted: Vec<u64>,
    counts: [f32; CLASSES],
}

impl SlidingQuantile {
    /// `window` in ticks.
    pub fn new(name: &'static str, window: usize) -> Self {
        let window = window.max(1);
        let (order, sorted) = (VecDeque::with_capacity(window + 1), Vec::with_capacity(window + 1));
        SlidingQuantile { name, window, order, sorted, counts: [0.0; CLASSES] }
    }

    /// The quantile of the window, 0 while it is empty.
    pub fn quantile(&self, tau: f64) -> u64 {
        let rank = (tau * self.sorted.len() as f64).ceil() as usize;
        self.sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }

    /// Adds an outcome and drops the oldest beyond the window.
    pub fn push(&mut self, outcome: u64) {
        let place = self.sorted.partition_point(|v| *v < outcome);
        self.sorted.insert(place, outcome);
        self.counts[class_of(outcome as f64)] += 1.0;
        self.order.push_back(outcome);
        if self.order.len() > self.window
            && let Some(old) = self.order.pop_front()
        {
            self.sorted.remove(self.sorted.partition_point(|v| *v < old));
            self.counts[class_of(old as f64)] -= 1.0;
        }
    }
}

impl Model for SlidingQuantile {
    fn name(&self) -> &str {
        self.name
    }
    fn observe(&mut self, tick: &TickFeatures) {
        if tick.complete {
            self.push(tick.horizon_bytes);
        }
    }
    fn forecast(&mut self) -> Distribution {
        let mut d = Distribution::from_weights(&self.counts);
        d.q50 = self.quantile(0.5) as f64;
        d.q95 = self.quantile(0.95) as f64;
        d.q99 = self.quantile(0.99) as f64;
        d
    }
}
