//! What may be chosen about prediction.

use super::models;

/// `--predict`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    Off,
    /// The recent-cost leader.
    Auto,
    FixedShare,
    Model(String),
}

impl Choice {
    /// From `auto`, `off`, `leader`, `fixed-share` or a model's name.
    pub fn parse(text: &str) -> Result<Choice, String> {
        let known = models::POOL.iter().chain(&models::NAIVE);
        Ok(match text {
            "off" => Choice::Off,
            "auto" | "leader" => Choice::Auto,
            "fixed-share" => Choice::FixedShare,
            name if known.clone().any(|n| *n == name) => Choice::Model(name.into()),
            _ => {
                let names: Vec<&str> = known.copied().collect();
                return Err(format!(
                    "no model '{text}': use auto, off, leader, fixed-share, {}",
                    names.join(", ")
                ));
            }
        })
    }
}

/// How to predict.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Length of a tick, nanoseconds.
    pub interval_ns: u64,
    /// What forecasts are about: the next so many nanoseconds.
    pub horizon_ns: u64,
    /// Age at which segments are sealed.
    pub seal_after_ns: u64,
    /// What static sizing holds ready, bytes: its forecast, against which all others are judged.
    pub static_bytes: u64,
    pub choice: Choice,
    /// Run only the chosen model beside static; for comparisons, as no switch is possible then.
    pub lean: bool,
    /// Models left out of the pool; for comparisons.
    pub without: Vec<String>,
    /// Fall back to static when the forecast is not to be trusted.
    pub guarded: bool,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        ManagerConfig {
            interval_ns: 50_000_000,
            horizon_ns: 1_000_000_000,
            seal_after_ns: 5_000_000_000,
            static_bytes: 6 << 20,
            choice: Choice::Auto,
            lean: false,
            without: Vec::new(),
            guarded: true,
        }
    }
}

impl ManagerConfig {
    /// Ticks of so many nanoseconds, at least one.
    pub fn ticks(&self, ns: u64) -> u32 {
        let interval_ns = self.interval_ns.max(1);
        ((ns + interval_ns / 2) / interval_ns).clamp(1, 1 << 20) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        assert_eq!(Choice::parse("auto"), Ok(Choice::Auto));
        assert_eq!(Choice::parse("off"), Ok(Choice::Off));
        assert_eq!(Choice::parse("markov"), Ok(Choice::Model("markov".into())));
        let why = Choice::parse("crystal-ball").expect_err("no such model");
        assert!(why.contains("crystal-ball") && why.contains("renewal"));
    }
}
