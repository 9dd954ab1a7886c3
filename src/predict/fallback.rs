//! When no forecast is to be trusted: static sizing, with the reason (PREDICTION.md section 4).

use std::fmt;

const HISTORY_NS_MIN: u64 = 60_000_000_000;
const TARGETS_MIN: u64 = 12;
const CONFIDENCE_MIN: f64 = 0.02;
/// Misses of the .99 quantile among the last 60 separate horizons: by chance once in 2,500 times.
const MISSES_MAX: u32 = 5;
const OVERRUN_NS: u64 = 10_000_000;
const REARM_NS: u64 = 10_000_000_000;
const REARM_ADVANTAGE: f64 = 0.05;

/// Why sizing is static.
#[derive(Clone, Debug, PartialEq)]
pub enum Fallback {
    /// Asked for.
    Off,
    ShortHistory {
        seconds: f64,
        bursts: u64,
    },
    LowConfidence {
        confidence: f64,
    },
    Misses {
        misses: u32,
        windows: u32,
    },
    TickOverrun {
        ns: u64,
    },
    ClockJump {
        ns: i64,
    },
    /// The cause is gone, the forecast must prove itself first.
    Rearming {
        seconds: f64,
    },
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fallback::Off => write!(f, "prediction is off"),
            Fallback::ShortHistory { seconds, bursts } => {
                write!(f, "short history: {seconds:.0} s of 60 s, {bursts} seconds with writes of 12")
            }
            Fallback::LowConfidence { confidence } => {
                write!(f, "low confidence: {confidence:.3}, needs {CONFIDENCE_MIN}")
            }
            Fallback::Misses { misses, windows } => {
                write!(
                    f,
                    "too many misses: {misses} of the last {windows} horizons, at most {}",
                    MISSES_MAX - 1
                )
            }
            Fallback::TickOverrun { ns } => {
                write!(f, "tick overrun: a tick took {:.1} ms, at most 10 ms", *ns as f64 / 1e6)
            }
            Fallback::ClockJump { ns } => write!(f, "clock jump: {:+.3} s", *ns as f64 / 1e9),
            Fallback::Rearming { seconds } => {
                write!(f, "rearming: better than static for {seconds:.0} s of 10 s")
            }
        }
    }
}

/// What the conditions look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// History seen, nanoseconds, and separate horizons in it with any bytes.
    pub history_ns: u64,
    pub bursts: u64,
    /// Share by which the forecast in use is cheaper than static; misses not counted.
    pub advantage: f64,
    pub misses: u32,
    pub windows: u32,
    /// What the last tick took.
    pub tick_ns: u64,
    /// A jump of the clock in this tick, nanoseconds; 0 for none.
    pub clock_jump_ns: i64,
}

impl Health {
    /// True when enough was seen to judge.
    pub fn seasoned(&self) -> bool {
        self.history_ns >= HISTORY_NS_MIN && self.bursts >= TARGETS_MIN
    }
    /// True when the quantile holds.
    pub fn covers(&self) -> bool {
        self.misses < MISSES_MAX
    }
    /// `advantage`, or 0 where coverage fails.
    pub fn confidence(&self) -> f64 {
        if self.covers() { self.advantage } else { 0.0 }
    }

    /// The first condition that speaks against the forecast. A model chosen by name is not judged on
    /// its cost (`judged` false).
    fn against(&self, judged: bool) -> Option<Fallback> {
        if self.clock_jump_ns != 0 {
            return Some(Fallback::ClockJump { ns: self.clock_jump_ns });
        }
        if self.tick_ns > OVERRUN_NS {
            return Some(Fallback::TickOverrun { ns: self.tick_ns });
        }
        if !self.seasoned() {
            let seconds = self.history_ns as f64 / 1e9;
            return Some(Fallback::ShortHistory { seconds, bursts: self.bursts });
        }
        if judged && !self.covers() {
            return Some(Fallback::Misses { misses: self.misses, windows: self.windows });
        }
        if judged && self.confidence() < CONFIDENCE_MIN {
            return Some(Fallback::LowConfidence { confidence: self.confidence() });
        }
        None
    }
}

/// Remembers the fallback between ticks.
#[derive(Clone, Debug)]
pub struct FallbackState {
    now: Option<Fallback>,
    /// `None` before the first tick.
    since_ns: Option<u64>,
    good_since_ns: Option<u64>,
}

impl Default for FallbackState {
    fn default() -> Self {
        Self::new()
    }
}

impl FallbackState {
    /// Static until proven better.
    pub fn new() -> Self {
        let first = Fallback::ShortHistory { seconds: 0.0, bursts: 0 };
        FallbackState { now: Some(first), since_ns: None, good_since_ns: None }
    }

    /// Judges a tick. Leaves the fallback only after 10 s without any cause and with an advantage.
    pub fn update(&mut self, now_ns: u64, health: &Health, judged: bool) -> Option<&Fallback> {
        let cause = health.against(judged);
        let short = matches!(cause, Some(Fallback::ShortHistory { .. }));
        // While history is short the forecast may already prove itself.
        let good = (cause.is_none() || short) && (!judged || health.advantage >= REARM_ADVANTAGE);
        if !good {
            self.good_since_ns = None;
        } else if self.good_since_ns.is_none() {
            self.good_since_ns = Some(now_ns);
        }
        let good_ns = self.good_since_ns.map_or(0, |since| now_ns.saturating_sub(since));
        let next = match cause {
            Some(cause) => Some(cause),
            None if self.now.is_none() || good_ns >= REARM_NS => None,
            None => Some(Fallback::Rearming { seconds: good_ns as f64 / 1e9 }),
        };
        if next.is_some() != self.now.is_some() {
            let seconds = self.since_ns.map_or(0.0, |since| now_ns.saturating_sub(since) as f64 / 1e9);
            match &next {
                Some(why) => log::info!("segments sized statically, after {seconds:.0} s by forecast: {why}"),
                None => log::info!("segments sized by forecast, after {seconds:.0} s statically"),
            }
            self.since_ns = Some(now_ns);
        }
        self.since_ns.get_or_insert(now_ns);
        self.now = next;
        self.now.as_ref()
    }

    /// Since when the present state holds, monotonic nanoseconds; `None` before the first tick.
    pub fn since_ns(&self) -> Option<u64> {
        self.since_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn well() -> Health {
        Health { history_ns: 100 * S, bursts: 50, advantage: 0.5, windows: 60, ..Health::default() }
    }

    /// A state that has been armed at 20 s.
    fn armed() -> FallbackState {
        let mut f = FallbackState::new();
        f.update(0, &well(), true);
        assert_eq!(f.update(10 * S, &well(), true), None);
        assert_eq!(f.since_ns(), Some(10 * S));
        f
    }

    fn reason(bad: Health) -> String {
        armed().update(20 * S, &bad, true).map(|f| f.to_string()).expect("a fallback")
    }

    #[test]
    fn short_history() {
        assert!(reason(Health { history_ns: 59 * S, ..well() }).starts_with("short history: 59 s of 60"));
        assert!(reason(Health { bursts: 11, ..well() }).contains("11 seconds with writes of 12"));
    }
    #[test]
    fn low_confidence() {
        assert!(reason(Health { advantage: 0.019, ..well() }).starts_with("low confidence: 0.019"));
    }
    #[test]
    fn misses() {
        assert_eq!(armed().update(20 * S, &Health { misses: 4, ..well() }, true), None);
        assert!(reason(Health { misses: 5, ..well() }).starts_with("too many misses: 5 of the last 60"));
        assert_eq!(Health { misses: 5, ..well() }.confidence(), 0.0);
    }
    #[test]
    fn tick_overrun() {
        assert_eq!(armed().update(20 * S, &Health { tick_ns: 10_000_000, ..well() }, true), None);
        assert!(reason(Health { tick_ns: 12_500_000, ..well() }).contains("took 12.5 ms"));
    }
    #[test]
    fn clock_jump() {
        assert_eq!(reason(Health { clock_jump_ns: -1_500_000_000, ..well() }), "clock jump: -1.500 s");
    }
    #[test]
    fn off_says_so() {
        assert_eq!(Fallback::Off.to_string(), "prediction is off");
    }

    #[test]
    fn rearms_after_ten_seconds_of_advantage() {
        let mut f = armed();
        f.update(20 * S, &Health { tick_ns: u64::MAX, ..well() }, true);
        let small = Health { advantage: 0.04, ..well() };
        assert!(f.update(21 * S, &well(), true).is_some_and(|f| f.to_string().starts_with("rearming: ")));
        assert!(f.update(29 * S, &small, true).is_some());
        assert!(f.update(30 * S, &well(), true).is_some());
        assert!(f.update(39 * S, &well(), true).is_some());
        assert_eq!(f.update(40 * S, &well(), true), None);
    }

    #[test]
    fn a_model_by_name_is_not_judged_on_cost() {
        let mut f = FallbackState::new();
        let poor = Health { advantage: 0.0, misses: 60, ..well() };
        f.update(0, &poor, false);
        assert_eq!(f.update(10 * S, &poor, false), None);
    }
}
