//! When to try again: exponential, capped, with full jitter (Brooker, "Exponential Backoff And Jitter",
//! AWS Architecture Blog 2015). Retries never end.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(30);

/// The backoff.
#[derive(Clone, Debug)]
pub struct Retry {
    failures: u32,
    not_before_ns: u64,
    random: u64,
}

impl Retry {
    pub fn new(seed: u64) -> Retry {
        Retry { failures: 0, not_before_ns: 0, random: seed | 1 }
    }

    /// How long to wait still; `None`: go on.
    pub fn wait(&self, now_ns: u64) -> Option<Duration> {
        (now_ns < self.not_before_ns).then(|| Duration::from_nanos(self.not_before_ns - now_ns))
    }

    /// A failure: the next try is later than the last one was.
    pub fn failed(&mut self, now_ns: u64) {
        let most = FIRST.saturating_mul(1 << self.failures.min(16)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        // xorshift64 (Marsaglia 2003): enough for jitter.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = (self.random % 1000) as f64 / 1000.0;
        let wait = FIRST.max(most.mul_f64(0.5 + 0.5 * part));
        self.not_before_ns = now_ns + wait.as_nanos() as u64;
    }

    /// Progress: start over.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before_ns = 0;
    }

    /// Monotonic time of the next try.
    pub fn not_before_ns(&self) -> u64 {
        self.not_before_ns
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_over() {
        let mut r = Retry::new(7);
        let mut last = Duration::ZERO;
        for n in 0..40 {
            r.failed(1000);
            let w = r.wait(1000).expect("waits");
            assert!(w >= FIRST && w <= CAP, "try {n}: {w:?}");
            last = w;
        }
        assert!(last >= CAP / 2);
        assert_eq!(r.wait(1000 + CAP.as_nanos() as u64), None);
        r.succeeded();
        assert_eq!(r.wait(0), None);
    }
}
