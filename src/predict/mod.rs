//! F3: the Predictive Log Manager. Every 50 ms: drained samples in, a forecast of the next horizon
//! out, as a distribution over byte classes, with the confidence it has earned.
//!
//! Pure: time is handed in, nothing is read or locked. [`Model`]s forecast; `score` judges all of them on
//! what then happened; `leader` picks; `fallback` says when none is to be trusted.

mod band;
mod birth;
mod clients;
mod config;
mod distribution;
mod fallback;
mod features;
mod forecast;
mod groups;
mod leader;
mod manager;
mod mixture;
pub mod models;
mod onset;
mod panel;
mod recurrence;
mod score;
mod tick;

pub use band::Band;
pub use birth::BirthHistogram;
pub use config::{Choice, ManagerConfig};
pub use distribution::{CLASSES, Distribution, Levels, class_high, class_low, class_of, class_value};
pub use fallback::{Fallback, FallbackState, Health};
pub use features::{FeatureTracker, TickFeatures, TickSums};
pub use forecast::{BirthLease, ClientForecast, Forecast, ProgramForecast};
pub use leader::{FixedShare, Leader};
pub use manager::PredictiveLogManager;
pub use mixture::ClientMixture;
pub use onset::{Onset, Onsets};
pub use score::{Expert, Judge, Scored, pinball};

/// A forecaster of the bytes of the next horizon. It sees every tick once and is then asked once.
pub trait Model: Send {
    /// Its name in `--predict`, `status` and `trace replay`.
    fn name(&self) -> &str;
    /// Learns from a finished tick. `tick.horizon_bytes` is what the forecast issued one horizon ago
    /// was about.
    fn observe(&mut self, tick: &TickFeatures);
    /// The distribution of the bytes of the horizon that starts now.
    fn forecast(&mut self) -> Distribution;
    /// Whether it is right about bursts of a size that came only once: the oracle of a replay is.
    fn foresees(&self) -> bool {
        false
    }
    /// What it learned, as bytes to be kept; `None` for one that starts anew each time.
    fn weights(&self) -> Option<Vec<u8>> {
        None
    }
    /// Takes back what `weights` gave. False when it cannot be read or there is nothing to take.
    fn restore(&mut self, _: &[u8]) -> bool {
        false
    }
}
