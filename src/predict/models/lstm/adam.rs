//! Adam (Kingma & Ba 2015, algorithm 1) with the gradient's norm clipped (Pascanu et al. 2013), and a moving
//! average of the weights for inference (Polyak & Juditsky 1992): single windows are noisy, their average is not.

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
const NORM_MAX: f32 = 1.0;
const AVERAGE_STEP: f32 = 0.005;

/// Weights that learn.
#[derive(Clone)]
pub struct Adam {
    pub weights: Vec<f32>,
    /// What to forecast with.
    pub average: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    /// Steps done, as far as bias correction and averaging can tell.
    steps: u32,
}

impl Adam {
    /// Starts at these weights. `averaged` false lets the average follow at once at first, as suits random weights.
    pub fn new(weights: Vec<f32>, averaged: bool) -> Self {
        let zeros = vec![0.0; weights.len()];
        let steps = if averaged { u16::MAX as u32 } else { 0 };
        Adam { average: weights.clone(), weights, first: zeros.clone(), second: zeros, steps }
    }

    /// One step down the gradient.
    pub fn step(&mut self, gradient: &mut [f32], rate: f32) {
        let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
        if !norm.is_finite() {
            return;
        }
        if norm > NORM_MAX {
            gradient.iter_mut().for_each(|g| *g *= NORM_MAX / norm);
        }
        self.steps = self.steps.saturating_add(1);
        let n = self.steps as f32;
        let rate = rate * (1.0 - BETA_2.powf(n)).sqrt() / (1.0 - BETA_1.powf(n));
        let follow = AVERAGE_STEP.max(1.0 / (1.0 + 0.1 * n));
        for (k, g) in gradient.iter().enumerate() {
            self.first[k] += (1.0 - BETA_1) * (g - self.first[k]);
            self.second[k] += (1.0 - BETA_2) * (g * g - self.second[k]);
            self.weights[k] -= rate * self.first[k] / (self.second[k].sqrt() + EPSILON);
            self.average[k] += follow * (self.weights[k] - self.average[k]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bottom_of_a_bowl_and_passes_over_nonsense() {
        let mut a = Adam::new(vec![5.0, -3.0], false);
        for _ in 0..4000 {
            let mut g = [2.0 * (a.weights[0] - 1.0), 20.0 * (a.weights[1] - 2.0)];
            a.step(&mut g, 0.01);
        }
        assert!((a.average[0] - 1.0).abs() < 0.01 && (a.average[1] - 2.0).abs() < 0.01, "{:?}", a.average);
        let before = a.weights.clone();
        a.step(&mut [f32::NAN, 0.0], 0.01);
        assert_eq!(a.weights, before);
    }
}
