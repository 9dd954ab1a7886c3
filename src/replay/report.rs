//! The result of a replay, as JSON (version 1: fields may be added, never changed) and as a table.

use super::track::Track;
use serde::Serialize;
use std::fmt;

/// What the trace holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceReport {
    pub writes: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub programs: u64,
    /// Rows of calls that failed, left out.
    pub failed_writes: u64,
}

/// One policy on the last half of the trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyReport {
    pub policy: String,
    pub stalls: u64,
    pub ready_rate: f64,
    pub idle_mib: f64,
    pub idle_max_mib: f64,
    pub seals: u64,
    pub wait_p50_us: u64,
    pub wait_p99_us: u64,
    pub wait_p999_us: u64,
    pub relative_pinball_95: f64,
    pub relative_pinball_99: f64,
    /// Of the reported band, whose coverage follows; decisions go by the quantiles, which the two figures above judge.
    pub band_pinball_95: f64,
    pub band_pinball_99: f64,
    pub quantile_coverage_95: f64,
    pub quantile_coverage_99: f64,
    pub coverage_95: f64,
    pub coverage_99: f64,
    pub active_coverage_99: f64,
    pub byte_coverage_99: f64,
    pub client_log_loss_nats: f64,
    pub tick_p50_us: u64,
    pub tick_p99_us: u64,
}

/// The whole result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayReport {
    pub version: u32,
    pub trace: TraceReport,
    pub alloc_ms: f64,
    pub alloc_ms_per_mib: f64,
    pub policies: Vec<PolicyReport>,
    /// The whole trace, for pictures.
    #[serde(skip)]
    pub tracks: Vec<Track>,
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.trace;
        writeln!(
            f,
            "{} writes ({} failed left out), {:.1} MiB in {:.1} s, {} programs; scored on the last half; allocation {} ms + {} ms/MiB",
            t.writes,
            t.failed_writes,
            t.bytes as f64 / 1048576.0,
            t.seconds,
            t.programs,
            self.alloc_ms,
            self.alloc_ms_per_mib
        )?;
        writeln!(
            f,
            "{:<13} {:>6} {:>7} {:>8} {:>8} {:>6} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>5} {:>5}",
            "policy",
            "stalls",
            "ready%",
            "idle MiB",
            "max MiB",
            "seals",
            "p99 us",
            "p999 us",
            "rPB.95",
            "rPB.99",
            "cov.95",
            "cov.99",
            "active",
            "bytes",
            "nats",
            "t50us",
            "t99us"
        )?;
        for p in &self.policies {
            writeln!(
                f,
                "{:<13} {:>6} {:>7.2} {:>8.2} {:>8.1} {:>6} {:>7} {:>7} {:>7.3} {:>7.3} {:>6.3} {:>6.3} {:>6.3} {:>6.3} {:>6.3} {:>5} {:>5}",
                p.policy,
                p.stalls,
                100.0 * p.ready_rate,
                p.idle_mib,
                p.idle_max_mib,
                p.seals,
                p.wait_p99_us,
                p.wait_p999_us,
                p.relative_pinball_95,
                p.relative_pinball_99,
                p.coverage_95,
                p.coverage_99,
                p.active_coverage_99,
                p.byte_coverage_99,
                p.client_log_loss_nats,
                p.tick_p50_us,
                p.tick_p99_us
            )?;
        }
        Ok(())
    }
}
