//! `trace replay`: recorded writes played against each sizing policy, on simulated time, through the very
//! prediction and segmenter code the gateway runs. Pure but for a clock that times the ticks.

pub mod chart;
mod page;
mod policy;
mod pool;
mod report;
mod run;
mod trace;
mod track;

pub use page::{forecast as forecast_chart, page, reserve as reserve_chart};
pub use policy::{Policy, all_policies};
pub use pool::{SimPool, Tally};
pub use report::{PolicyReport, ReplayReport, TraceReport};
pub use run::{ReplayOptions, replay, series};
pub use trace::Trace;
pub use track::{Column, Track};

#[cfg(test)]
mod tests;
