//! `trace replay` behind the command line.

use crate::control::Replay;
use crate::replay::{self, ReplayOptions, Trace};
use crate::sys::{clock, files};
use std::sync::OnceLock;

/// Names of all policies.
pub fn policies() -> &'static [&'static str] {
    static ALL: OnceLock<Vec<&'static str>> = OnceLock::new();
    ALL.get_or_init(replay::all_policies)
}

/// Plays a trace; text or JSON. Errors: one line for people.
pub fn run(r: &Replay) -> Result<String, String> {
    let file = r.file.display();
    let bytes = files::read(&r.file).map_err(|e| format!("{file}: {e}"))?;
    let trace = Trace::parse(&bytes).map_err(|e| format!("{file}: {e}"))?;
    let options = ReplayOptions {
        horizon_ns: r.horizon.as_nanos() as u64,
        alloc_ms: r.alloc_ms,
        alloc_ms_per_mib: r.alloc_ms_per_mib,
        policies: r.policies.clone(),
        ..ReplayOptions::default()
    };
    let report = replay::replay(&trace, &options, &*clock::real()).map_err(|e| format!("{file}: {e}"))?;
    if r.json {
        serde_json::to_string(&report).map_err(|e| format!("{file}: writing JSON failed: {e}"))
    } else {
        Ok(report.to_string())
    }
}
