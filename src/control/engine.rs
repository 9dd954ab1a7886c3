//! What the program's shell needs of the engine. `gateway/` implements it, `main` passes it in.

use super::protocol::Verdict;
use crate::config::Config;
use crate::sys::daemon::Ready;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What this build can honour; the rest is refused before anything starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Abilities {
    /// Requests over io_uring.
    pub uring: bool,
    /// A plain umount(2) that waits.
    pub wait_umount: bool,
    /// A metrics listener.
    pub metrics: bool,
    /// A lease that can be taken over.
    pub takeover: bool,
    /// `s3://` backings.
    pub bucket: bool,
    /// `--durability backing`.
    pub durability_backing: bool,
    /// Models `--predict` may name.
    pub models: &'static [&'static str],
    /// Policies `trace replay --policy` may name.
    pub policies: &'static [&'static str],
}

#[cfg(test)]
impl Abilities {
    /// For tests: those of a build that lacks a few.
    pub const SOME: Abilities = Abilities {
        uring: true,
        wait_umount: false,
        metrics: false,
        takeover: true,
        bucket: true,
        durability_backing: false,
        models: &["leader", "ewma2"],
        policies: &[],
    };
}

/// A replay of a recorded trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    pub file: PathBuf,
    /// Empty: all.
    pub policies: Vec<String>,
    /// How far ahead forecasts are scored.
    pub horizon: Duration,
    /// Assumed fixed cost of an allocation in ms.
    pub alloc_ms: f64,
    /// Assumed further cost for each MiB in ms.
    pub alloc_ms_per_mib: f64,
    /// Models left out of the leader's pool.
    pub without: Vec<String>,
    /// Weights the LSTM starts from.
    pub weights: Option<PathBuf>,
    /// JSON instead of a table.
    pub json: bool,
    /// Where a page with pictures goes too.
    pub html: Option<PathBuf>,
}

/// A training of the LSTM on a recorded trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Train {
    pub file: PathBuf,
    /// The file the weights are written to.
    pub weights: PathBuf,
    pub epochs: u32,
    /// How far ahead it forecasts.
    pub horizon: Duration,
}

/// The engine behind the verbs. Every message is one line: what failed, on which path, why, what to do.
pub trait Engine {
    /// What this build can honour.
    fn abilities(&self) -> Abilities;

    /// Serves the mount until it has ended. Calls `ready.mounted()` once the kernel's INIT is answered,
    /// and `ready.stopping()` when it begins to end. Exit code 2 when it never came to serve.
    fn run_mount(&self, config: Config, ready: Ready) -> Verdict;

    /// Checks a log without changing it: a report, and whether all is well.
    fn fsck(&self, log_dir: &Path, json: bool) -> Result<(String, bool), String>;

    /// Writes the log's records as JSON lines.
    fn dump(&self, log_dir: &Path, out: &mut dyn Write) -> Result<(), String>;

    /// Replays a trace: the report as text or JSON.
    fn replay(&self, replay: &Replay) -> Result<String, String>;

    /// Trains on a trace and writes the weights; `progress` gets a line an epoch. Returns the last line.
    fn train(&self, train: &Train, progress: &mut dyn FnMut(String)) -> Result<String, String>;
}
