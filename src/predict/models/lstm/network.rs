//! One layer of long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al.
//! 2000) and three linear heads, forward and backward through time, on one flat array of weights:
//!
//! ```text
//! i, f, o = sigmoid(W v + b)    g = tanh(W v + b)    v = (x, h)
//! c' = f c + i g                h' = o tanh(c')      q_k = U_k h' + u_k
//! ```
//!
//! The loss is the quantile ("pinball") loss of the heads, mean over steps (Koenker & Bassett 1978).

use std::ops::Range;

/// Units of the layer.
pub const HIDDEN: usize = 16;
/// Inputs of a step.
pub const INPUTS: usize = 8;
/// Quantiles the heads forecast.
pub const TAUS: [f32; HEADS] = [0.5, 0.95, 0.99];
pub const HEADS: usize = 3;

/// Input, forget, cell and output gates, one after another.
const GATES: usize = 4 * HIDDEN;
const SOURCES: usize = INPUTS + HIDDEN;
/// Weights by source, each with those to all gates; then biases; then the heads and theirs.
const W: Range<usize> = 0..SOURCES * GATES;
const B: Range<usize> = W.end..W.end + GATES;
const U: Range<usize> = B.end..B.end + HEADS * HIDDEN;
const U_B: Range<usize> = U.end..U.end + HEADS;
/// Weights in all.
pub const WEIGHTS: usize = U_B.end;

pub type Input = [f32; INPUTS];
type Gates = [f32; GATES];
type Hidden = [f32; HIDDEN];

/// What the layer remembers between steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    pub h: Hidden,
    pub c: Hidden,
}

/// One step as the way back needs it.
#[derive(Clone, Copy)]
struct Step {
    x: Input,
    before: State,
    /// After their activations.
    gates: Gates,
    tanh_c: Hidden,
    h: Hidden,
    /// Gradient of the loss by the heads' outputs.
    by_heads: [f32; HEADS],
}

/// Room for the steps of one window, kept to be used again.
#[derive(Default)]
pub struct Tape(Vec<Step>);

/// Starting weights: uniform within 1 / sqrt(sources), forget gates open. `uniform` gives 0..1.
pub fn initial(mut uniform: impl FnMut() -> f32) -> Vec<f32> {
    let mut weights = vec![0.0; WEIGHTS];
    let mut fill = |range: Range<usize>, sources: usize| {
        let bound = 1.0 / (sources as f32).sqrt();
        weights[range].iter_mut().for_each(|w| *w = bound * (2.0 * uniform() - 1.0));
    };
    fill(W, SOURCES);
    fill(U, HIDDEN);
    weights[B][HIDDEN..2 * HIDDEN].fill(1.0);
    weights
}

/// One step on: the new state, and the raw outputs of the heads.
pub fn forward(weights: &[f32], x: &Input, state: &mut State) -> [f32; HEADS] {
    let step = advance(weights, x, state);
    outputs(weights, &step.h)
}

fn advance(weights: &[f32], x: &Input, state: &mut State) -> Step {
    let before = *state;
    let mut gates: Gates = [0.0; GATES];
    gates.copy_from_slice(&weights[B]);
    for (row, v) in weights[W].as_chunks::<GATES>().0.iter().zip(x.iter().chain(&before.h)) {
        gates.iter_mut().zip(row).for_each(|(g, w)| *g += w * v);
    }
    for (k, gate) in gates.iter_mut().enumerate() {
        *gate = if k / HIDDEN == 2 { tanh(*gate) } else { sigmoid(*gate) };
    }
    let (i, f, g, o) = split(&gates);
    let mut tanh_c = [0.0; HIDDEN];
    for n in 0..HIDDEN {
        state.c[n] = f[n] * before.c[n] + i[n] * g[n];
        tanh_c[n] = tanh(state.c[n]);
        state.h[n] = o[n] * tanh_c[n];
    }
    Step { x: *x, before, gates, tanh_c, h: state.h, by_heads: [0.0; HEADS] }
}

fn split(gates: &Gates) -> (&[f32], &[f32], &[f32], &[f32]) {
    let (i, rest) = gates.split_at(HIDDEN);
    let (f, rest) = rest.split_at(HIDDEN);
    let (g, o) = rest.split_at(HIDDEN);
    (i, f, g, o)
}

fn outputs(weights: &[f32], h: &Hidden) -> [f32; HEADS] {
    let heads = weights[U].as_chunks::<HIDDEN>().0;
    std::array::from_fn(|k| weights[U_B.start + k] + heads[k].iter().zip(h).map(|(u, h)| u * h).sum::<f32>())
}

/// Mean pinball loss of one step's outputs.
pub fn loss(outputs: &[f32; HEADS], wanted: f32) -> f32 {
    let pinball = |(q, tau): (&f32, f32)| (tau * (wanted - q)).max((tau - 1.0) * (wanted - q));
    outputs.iter().zip(TAUS).map(pinball).sum::<f32>() / HEADS as f32
}

/// Plays the window `steps` (input, wanted) from `state`, leaves the gradient of the mean loss by all weights in
/// `gradient`, and returns that loss.
pub fn gradient(
    weights: &[f32],
    mut state: State,
    steps: impl ExactSizeIterator<Item = (Input, f32)>,
    gradient: &mut [f32],
    tape: &mut Tape,
) -> f32 {
    let scale = 1.0 / (steps.len().max(1) * HEADS) as f32;
    tape.0.clear();
    let mut sum = 0.0;
    for (x, wanted) in steps {
        let mut step = advance(weights, &x, &mut state);
        let said = outputs(weights, &step.h);
        sum += loss(&said, wanted) * HEADS as f32;
        step.by_heads =
            std::array::from_fn(|k| scale * if wanted > said[k] { -TAUS[k] } else { 1.0 - TAUS[k] });
        tape.0.push(step);
    }
    gradient.fill(0.0);
    let (mut by_h, mut by_c): (Hidden, Hidden) = ([0.0; HIDDEN], [0.0; HIDDEN]);
    for step in tape.0.iter().rev() {
        back_heads(weights, step, gradient, &mut by_h);
        back_layer(weights, step, gradient, &mut by_h, &mut by_c);
    }
    sum * scale
}

fn back_heads(weights: &[f32], step: &Step, gradient: &mut [f32], by_h: &mut Hidden) {
    let heads = weights[U].as_chunks::<HIDDEN>().0;
    for (k, by) in step.by_heads.iter().enumerate() {
        gradient[U_B.start + k] += by;
        let row = &mut gradient[U][k * HIDDEN..(k + 1) * HIDDEN];
        for n in 0..HIDDEN {
            row[n] += by * step.h[n];
            by_h[n] += by * heads[k][n];
        }
    }
}

/// In: the gradients by the step's output and cell. Out: those by the step before.
fn back_layer(weights: &[f32], step: &Step, gradient: &mut [f32], by_h: &mut Hidden, by_c: &mut Hidden) {
    let (i, f, g, o) = split(&step.gates);
    let mut by_gates: Gates = [0.0; GATES];
    for n in 0..HIDDEN {
        let by_cell = by_c[n] + by_h[n] * o[n] * (1.0 - step.tanh_c[n] * step.tanh_c[n]);
        by_gates[n] = by_cell * g[n] * i[n] * (1.0 - i[n]);
        by_gates[HIDDEN + n] = by_cell * step.before.c[n] * f[n] * (1.0 - f[n]);
        by_gates[2 * HIDDEN + n] = by_cell * i[n] * (1.0 - g[n] * g[n]);
        by_gates[3 * HIDDEN + n] = by_h[n] * step.tanh_c[n] * o[n] * (1.0 - o[n]);
        by_c[n] = by_cell * f[n];
    }
    gradient[B].iter_mut().zip(&by_gates).for_each(|(b, by)| *b += by);
    let rows = weights[W].as_chunks::<GATES>().0;
    let into = gradient[W].as_chunks_mut::<GATES>().0;
    for (k, (row, v)) in into.iter_mut().zip(step.x.iter().chain(&step.before.h)).enumerate() {
        row.iter_mut().zip(&by_gates).for_each(|(w, by)| *w += v * by);
        if k >= INPUTS {
            by_h[k - INPUTS] = dot(&rows[k], &by_gates);
        }
    }
}

/// In eight lanes, which the compiler turns into vectors.
fn dot(a: &Gates, b: &Gates) -> f32 {
    let mut lanes = [0.0f32; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(l, (a, b))| *l += a * b);
    }
    lanes.iter().sum()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::models::lstm::Random;

    #[test]
    fn the_gradient_is_the_numerical_one() {
        let mut r = Random::new(5);
        let mut weights = initial(|| r.uniform());
        weights.iter_mut().for_each(|w| *w += 0.2 * (r.uniform() - 0.5));
        let steps: Vec<(Input, f32)> =
            (0..12).map(|_| (std::array::from_fn(|_| r.uniform()), 3.0 * r.uniform() - 1.5)).collect();
        let start = State { h: [0.1; HIDDEN], c: [-0.2; HIDDEN] };
        let (mut exact, mut other, mut tape) = (vec![0.0; WEIGHTS], vec![0.0; WEIGHTS], Tape::default());
        let mut at = |weights: &[f32], into: &mut [f32]| {
            gradient(weights, start, steps.iter().copied(), into, &mut tape)
        };
        at(&weights, &mut exact);
        let mut worst = 0f32;
        for k in 0..WEIGHTS {
            let (kept, by) = (weights[k], 4e-3);
            weights[k] = kept + by;
            let above = at(&weights, &mut other);
            weights[k] = kept - by;
            let below = at(&weights, &mut other);
            weights[k] = kept;
            worst = worst.max(((above - below) / (2.0 * by) - exact[k]).abs());
        }
        let size = exact.iter().map(|g| g.abs()).fold(0.0, f32::max);
        assert!(size > 0.05 && worst < 2e-4, "off by {worst} of {size}");
    }

    #[test]
    fn a_step_of_the_window_is_the_forward_step() {
        let mut r = Random::new(9);
        let weights = initial(|| r.uniform());
        let x = [0.3; INPUTS];
        let mut state = State::default();
        let said = forward(&weights, &x, &mut state);
        let again = forward(&weights, &x, &mut state);
        assert_ne!(said, again);
        let mut g = vec![0.0; WEIGHTS];
        let all = [(x, 0.7), (x, 0.7)];
        let mean = gradient(&weights, State::default(), all.into_iter(), &mut g, &mut Tape::default());
        assert!((mean - (loss(&said, 0.7) + loss(&again, 0.7)) / 2.0).abs() < 1e-6);
    }
}
