//! Forecasts as histograms over 41 classes of bytes: zero, then half octaves up to 1 GiB.

use std::collections::VecDeque;
use std::sync::LazyLock;

/// Classes of a histogram. Class 0 is "no bytes"; class 1 is up to 1 KiB; each further one reaches
/// sqrt(2) times as far; the last holds all above.
pub const CLASSES: usize = 41;
const FIRST_HIGH: f64 = 1024.0;

static HIGH: LazyLock<[f64; CLASSES]> = LazyLock::new(|| {
    std::array::from_fn(|k| if k == 0 { 0.0 } else { FIRST_HIGH * 2f64.powf((k - 1) as f64 / 2.0) })
});

/// The class of a number of bytes.
pub fn class_of(bytes: f64) -> usize {
    // NaN and negatives count as nothing.
    if bytes.is_nan() || bytes < 0.5 {
        return 0;
    }
    // The estimate may be one off at an edge; the edges themselves decide.
    let estimate = 1 + (2.0 * (bytes / FIRST_HIGH).log2()).ceil().clamp(0.0, (CLASSES - 2) as f64) as usize;
    if bytes > HIGH[estimate] && estimate + 1 < CLASSES {
        estimate + 1
    } else if estimate > 1 && bytes <= HIGH[estimate - 1] {
        estimate - 1
    } else {
        estimate
    }
}

/// The largest number of bytes in a class (of the last one: its nominal edge).
pub fn class_high(class: usize) -> f64 {
    HIGH[class.min(CLASSES - 1)]
}

/// The number of bytes a class starts above; 32 for the first, so that its middle is sensible.
pub fn class_low(class: usize) -> f64 {
    match class {
        0 => 0.0,
        1 => 32.0,
        _ => class_high(class - 1),
    }
}

/// The middle of a class, geometrically.
pub fn class_value(class: usize) -> f64 {
    if class == 0 { 0.0 } else { (class_low(class) * class_high(class)).sqrt() }
}

/// What values were really seen in each class of late: sharpens quantiles where a workload repeats itself,
/// and covers a value that comes again and again instead of falling a byte short of it.
#[derive(Clone, Debug)]
pub struct Levels {
    seen: Vec<VecDeque<f32>>,
    skipped: [u8; CLASSES],
    values: [f32; CLASSES],
}

impl Default for Levels {
    fn default() -> Self {
        Levels { seen: vec![VecDeque::new(); CLASSES], skipped: [0; CLASSES], values: middles() }
    }
}

impl Levels {
    const KEPT: usize = 48;
    /// Neighbouring horizons overlap, so only each fifth is kept, and each new largest.
    const STRIDE: u8 = 5;

    /// Notes a value.
    pub fn observe(&mut self, bytes: f64) {
        let class = class_of(bytes);
        let (seen, v) = (&mut self.seen[class], bytes as f32);
        self.skipped[class] += 1;
        if self.skipped[class] < Self::STRIDE && seen.iter().any(|s| *s >= v) {
            return;
        }
        self.skipped[class] = 0;
        if seen.len() == Self::KEPT {
            seen.pop_front();
        }
        seen.push_back(v);
        self.values[class] = seen.iter().sum::<f32>() / seen.len() as f32;
    }

    /// The value below which the fraction `part` of a class lies.
    fn within(&self, class: usize, part: f64) -> f64 {
        let seen = &self.seen[class];
        if seen.is_empty() {
            return spread(class, part);
        }
        let mut all = [0f32; Self::KEPT];
        let all = &mut all[..seen.len()];
        all.iter_mut().zip(seen).for_each(|(a, s)| *a = *s);
        let rank = ((part * all.len() as f64).ceil() as usize).clamp(1, all.len()) - 1;
        *all.select_nth_unstable_by(rank, f32::total_cmp).1 as f64
    }
}

/// A forecast of bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Probability of each class; they sum to one.
    pub probs: [f32; CLASSES],
    /// The bytes each class stands for.
    pub values: [f32; CLASSES],
    /// Quantiles, bytes. A model that knows better than its histogram sets them itself.
    pub q50: f64,
    pub q95: f64,
    pub q99: f64,
    /// Mean, bytes.
    pub expected_bytes: f64,
    /// Expected count of write requests, and their mean size in bytes.
    pub expected_requests: f64,
    pub mean_request_bytes: f64,
}

impl Distribution {
    /// All mass on one value.
    pub fn point(bytes: f64) -> Self {
        let bytes = bytes.max(0.0);
        let mut probs = [0.0; CLASSES];
        let mut values = middles();
        let class = class_of(bytes);
        probs[class] = 1.0;
        values[class] = bytes as f32;
        Distribution {
            probs,
            values,
            q50: bytes,
            q95: bytes,
            q99: bytes,
            expected_bytes: bytes,
            expected_requests: 0.0,
            mean_request_bytes: 0.0,
        }
    }

    /// From weights of the classes (any scale; all zero means "nothing will come").
    pub fn from_weights(weights: &[f32; CLASSES]) -> Self {
        Self::build(weights, middles(), spread)
    }

    /// The same with the values really seen in each class.
    pub fn from_weights_at(weights: &[f32; CLASSES], levels: &Levels) -> Self {
        Self::build(weights, levels.values, |k, part| levels.within(k, part))
    }

    fn build(weights: &[f32; CLASSES], values: [f32; CLASSES], within: impl Fn(usize, f64) -> f64) -> Self {
        let sum: f32 = weights.iter().sum();
        if !(sum > 0.0 && sum.is_finite()) {
            return Self::point(0.0);
        }
        let probs = std::array::from_fn(|k| weights[k] / sum);
        let mut d = Distribution { probs, values, ..Self::point(0.0) };
        d.expected_bytes = d.mean();
        (d.q50, d.q95, d.q99) = (d.search(0.5, &within), d.search(0.95, &within), d.search(0.99, &within));
        d
    }

    fn mean(&self) -> f64 {
        self.probs.iter().zip(&self.values).map(|(p, v)| (p * v) as f64).sum()
    }

    fn search(&self, tau: f64, within: &impl Fn(usize, f64) -> f64) -> f64 {
        let (mut below, mut last) = (0.0, 0);
        for (k, p) in self.probs.iter().map(|p| *p as f64).enumerate().filter(|(_, p)| *p > 0.0) {
            if below + p >= tau {
                return within(k, ((tau - below) / p).clamp(0.0, 1.0));
            }
            below += p;
            last = k;
        }
        within(last, 1.0)
    }

    /// Any quantile, from the histogram, bytes.
    pub fn quantile(&self, tau: f64) -> f64 {
        self.search(tau, &|k, _| self.values[k] as f64)
    }

    /// Any quantile, spread evenly within its class, bytes. For unclipped histograms.
    pub fn quantile_within(&self, tau: f64) -> f64 {
        self.search(tau, &spread)
    }

    /// Nothing above `bytes`: what lies there moves down to it.
    pub fn clip(&mut self, bytes: f64) {
        let top = class_of(bytes);
        if self.q99 <= bytes && self.probs[top + 1..].iter().all(|p| *p == 0.0) {
            return;
        }
        let above: f32 = self.probs[top + 1..].iter().sum();
        self.probs[top + 1..].fill(0.0);
        self.probs[top] += above;
        if above > 0.0 || self.values[top] as f64 > bytes {
            self.values[top] = bytes as f32;
        }
        self.q50 = self.q50.min(bytes);
        self.q95 = self.q95.min(bytes);
        self.q99 = self.q99.min(bytes);
        self.expected_bytes = self.mean();
    }

    /// Every amount times `factor` (of the whole to a part).
    pub fn scaled(&self, factor: f64) -> Self {
        let mut d = self.clone();
        d.values.iter_mut().for_each(|v| *v *= factor as f32);
        d.q50 *= factor;
        d.q95 *= factor;
        d.q99 *= factor;
        d.expected_bytes *= factor;
        d.expected_requests *= factor;
        d
    }

    /// What is still to come once `bytes` of it came; `None` when the forecast knows of no more.
    pub fn after(&self, bytes: f64) -> Option<Self> {
        if bytes <= 0.0 {
            return Some(self.clone());
        }
        let mut d = self.clone();
        let mut left = 0.0;
        for (p, v) in d.probs.iter_mut().zip(d.values.iter_mut()) {
            *p = if *v as f64 > bytes { *p } else { 0.0 };
            left += *p;
            *v = (*v - bytes as f32).max(0.0);
        }
        if left <= 0.0 {
            return None;
        }
        d.probs.iter_mut().for_each(|p| *p /= left);
        d.q50 = d.quantile(0.5);
        d.q95 = d.quantile(0.95);
        d.q99 = d.quantile(0.99);
        d.expected_bytes = d.mean();
        Some(d)
    }

    /// Sets the expected count of requests from the mean bytes of one.
    pub fn with_request_bytes(mut self, mean: f64) -> Self {
        self.mean_request_bytes = mean;
        self.expected_requests = if mean > 0.0 { self.expected_bytes / mean } else { 0.0 };
        self
    }
}

/// A fraction of the way through a class.
fn spread(class: usize, part: f64) -> f64 {
    class_low(class) + part * (class_high(class) - class_low(class))
}

fn middles() -> [f32; CLASSES] {
    std::array::from_fn(|k| class_value(k) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_half_octaves() {
        assert_eq!([0.0, 1.0, 1024.0, 1025.0, 1449.0, 2048.0].map(class_of), [0, 1, 1, 2, 3, 3]);
        assert_eq!(class_of(1e15), 40);
        assert_eq!(class_of(f64::NAN), 0);
        for k in 1..CLASSES {
            assert_eq!(class_of(class_high(k)), k);
            assert_eq!(class_of(class_value(k)), k);
        }
    }

    #[test]
    fn quantiles_mean_and_clip() {
        let mut w = [0.0; CLASSES];
        (w[0], w[21]) = (9.0, 1.0);
        let mut d = Distribution::from_weights(&w);
        assert_eq!(d.q50, 0.0);
        assert!(class_low(21) < d.q95 && d.q95 < d.q99 && d.q99 < class_high(21));
        assert!((d.expected_bytes - 0.1 * class_value(21)).abs() < 1.0);
        d.clip(1000.0);
        assert_eq!((d.q99, d.probs[1]), (1000.0, 0.1));
        assert!((d.expected_bytes - 100.0).abs() < 1e-3);
        assert_eq!(Distribution::from_weights(&[0.0; CLASSES]), Distribution::point(0.0));
    }

    #[test]
    fn levels_sharpen() {
        let mut l = Levels::default();
        (0..100).for_each(|_| l.observe(5_000_000.0));
        let mut w = [0.0; CLASSES];
        w[class_of(5e6)] = 1.0;
        let d = Distribution::from_weights_at(&w, &l);
        assert!((d.q99 - 5e6).abs() < 1.0 && (d.expected_bytes - 5e6).abs() < 1.0);
    }

    #[test]
    fn what_is_left_after_a_part_came() {
        let d = Distribution::point(1000.0);
        assert_eq!(d.after(400.0).map(|d| d.q99), Some(600.0));
        assert_eq!(d.after(1000.0), None);
    }
}
