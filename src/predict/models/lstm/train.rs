//! Training in many passes over a recording: what `trace train` does.

use super::network::{self, State};
use super::window::{Past, input, scaled};
use super::{Lstm, TAUS};
use crate::predict::TickFeatures;

/// How training went, after one more pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// From 1.
    pub number: u32,
    /// Mean pinball loss of the windows of this pass, logs of bytes.
    pub loss: f32,
    /// The same on the last third, which is not learned from.
    pub held_out_loss: f32,
    /// Share of the held-out outcomes at or below each quantile of [`TAUS`].
    pub coverage: [f32; TAUS.len()],
}

/// Trains a new network on the first two thirds of `series` (finished ticks in order). `progress` hears of each
/// epoch. The last weights are returned: the held-out part chooses nothing, so that its loss stays honest.
/// `None` when the series is too short for a window.
pub fn train(series: &[TickFeatures], epochs: u32, mut progress: impl FnMut(Epoch)) -> Option<Lstm> {
    let (learned, held_out) = series.split_at(series.len() / 3 * 2);
    let mut model = Lstm::new();
    for number in 1..=epochs.max(1) {
        // A pass in order renews the states that windows start from.
        model.past = Past::bounded(usize::MAX);
        model.state = State::default();
        learned.iter().for_each(|tick| model.absorb(tick));
        let windows = model.past.windows();
        if windows == 0 {
            return None;
        }
        let mut order: Vec<usize> = (0..windows).collect();
        for i in (1..windows).rev() {
            order.swap(i, model.random.below(i + 1));
        }
        let loss = order.iter().map(|n| model.learn(*n)).sum::<f32>() / windows as f32;
        let (held_out_loss, coverage) = judge(&model, held_out);
        progress(Epoch { number, loss, held_out_loss, coverage });
    }
    Some(Lstm::with(super::Adam::new(model.learner.average, true), model.random))
}

/// Mean loss and coverage on ticks that were not learned from, going on from where learning ended.
fn judge(model: &Lstm, ticks: &[TickFeatures]) -> (f32, [f32; TAUS.len()]) {
    let mut state = model.state;
    let ahead = ticks.first().map_or(0, |t| t.horizon_ticks as usize);
    let outcomes = ticks.iter().skip(ahead);
    let (mut sum, mut hits) = (0.0, [0.0; TAUS.len()]);
    for (tick, then) in ticks.iter().zip(outcomes) {
        let said = network::forward(&model.learner.average, &input(tick), &mut state);
        let wanted = scaled(then.horizon_bytes as f64);
        sum += network::loss(&said, wanted);
        hits.iter_mut().zip(said).for_each(|(h, q)| *h += (wanted <= q) as u8 as f32);
    }
    let count = ticks.len().saturating_sub(ahead).max(1) as f32;
    (sum / count, hits.map(|h| h / count))
}
