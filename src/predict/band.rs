//! The reported band: the quantiles of the model that leads, stretched until as many outcomes lie below them as should
//! ("quantile tracking": Angelopoulos, Candes and Tibshirani, Conformal PID control, 2023). In the long run its coverage is right
//! whatever the model says. It is what is shown; decisions go by the model's own quantiles, which cost less.

/// What a miss stretches the band by, as a logarithm; each hit takes back its part.
const STEP: f64 = 0.03;
/// Most of it.
const STRETCH_MAX: f64 = 8.0;
/// Added, so that a forecast of nothing can be stretched.
const FLOOR_BYTES: f64 = 65536.0;

/// One quantile of the band.
#[derive(Clone, Copy, Debug)]
pub struct Band {
    tau: f64,
    stretch: f64,
}

impl Band {
    /// For the quantile `tau`, 0..1.
    pub fn new(tau: f64) -> Band {
        Band { tau, stretch: 0.0 }
    }

    /// The edge of the band where the model's quantile is so many bytes.
    pub fn edge(&self, quantile: f64) -> f64 {
        ((quantile + FLOOR_BYTES) * self.stretch.exp() - FLOOR_BYTES).max(0.0)
    }

    /// Whether what came was above the edge then given.
    pub fn observe(&mut self, missed: bool) {
        let by = if missed { self.tau } else { self.tau - 1.0 };
        self.stretch = (self.stretch + STEP * by).clamp(-STRETCH_MAX, STRETCH_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_what_it_should_whatever_the_model_says() {
        for (quantile, tau) in [(0.0, 0.95), (1e6, 0.95), (1e3, 0.99), (1e8, 0.99)] {
            let (mut band, mut hits, mut x) = (Band::new(tau), 0, 7u64);
            for _ in 0..20_000 {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let came = 1e6 * (x >> 40) as f64 / (1u64 << 24) as f64;
                let missed = came > band.edge(quantile);
                hits += !missed as u32;
                band.observe(missed);
            }
            assert!((hits as f64 / 20_000.0 - tau).abs() < 0.01, "{quantile} {tau} {hits}");
        }
    }

    #[test]
    fn begins_with_the_quantile_and_stays_within_bounds() {
        let mut band = Band::new(0.99);
        assert_eq!((band.edge(0.0), band.edge(5e6).round()), (0.0, 5e6));
        (0..10_000).for_each(|_| band.observe(true));
        assert!(band.edge(1e9).is_finite());
        (0..1_000_000).for_each(|_| band.observe(false));
        assert_eq!(band.edge(0.0), 0.0);
    }
}
