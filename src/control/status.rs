//! The status of a gateway. The names here are the names of `forelog status --json` version 1, and this
//! is their only home: fields may be added, never changed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the JSON.
pub const STATUS_VERSION: u32 = 1;

/// Most clients a snapshot names, the busiest first: keeps it well below a frame.
pub const CLIENTS_MAX: usize = 2048;

/// Longest free text (a path is at most 4096) in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// What the gateway is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Serving,
    Draining,
    /// The backing is unreachable or the log latched an error: `reason` says which.
    Degraded,
    Stopped,
}

impl State {
    /// As in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            State::Serving => "serving",
            State::Draining => "draining",
            State::Degraded => "degraded",
            State::Stopped => "stopped",
        }
    }
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: u32,
    pub state: State,
    /// Why the state is `degraded`, or what a drain waits for.
    pub reason: Option<String>,
    pub pid: u32,
    pub mountpoint: String,
    pub backing: String,
    /// `directory` or `bucket`.
    pub backing_kind: String,
    /// Requests made of a bucket's store since the mount, by kind.
    pub store_requests: BTreeMap<String, u64>,
    /// What was read of a bucket, kept beside the log.
    #[serde(default)]
    pub read_cache: ReadCache,
    /// What is kept for undo.
    #[serde(default)]
    pub kept: Kept,
    pub log_dir: String,
    pub uptime_seconds: f64,
    /// How requests come from the kernel: `uring` or `device`.
    pub transport: String,
    /// A umount(2) by anybody waits for the drain, and sync(2) for the log.
    pub umount_waits: bool,
    /// Where metrics are served, `address:port`.
    pub metrics: Option<String>,
    pub open_handles: u64,
    pub requests: Requests,
    pub log: Log,
    pub writeback: Writeback,
    pub prediction: Prediction,
    pub clients: Vec<Client>,
    /// The settings that may change while mounted, as `forelog set` takes them.
    pub settings: BTreeMap<String, String>,
}

/// The read cache, and what it did since the mount; all zero where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadCache {
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    /// Blocks and objects' metadata.
    pub entries: u64,
    pub hits: u64,
    /// Blocks that were fetched from the store.
    pub misses: u64,
    pub damaged: u64,
}

/// What is kept for undo; all zero where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Changes are kept (`--keep-log`).
    pub on: bool,
    /// How long, if there is room.
    pub window_seconds: f64,
    pub segments: u64,
    /// Of segments and old contents.
    pub bytes: u64,
    /// What it may have at most now: what the log leaves of its size.
    pub room_bytes: u64,
    /// How far back a moment can be restored.
    pub oldest_seconds: f64,
    /// Files that had to make room before their time.
    pub given_up: u64,
    /// Old contents that could not be kept.
    pub lost: u64,
}

/// Requests served, by kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    pub write: Timing,
    pub read: Timing,
    pub fsync: Timing,
}

/// Count, bytes and service times of one kind of request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    pub count: u64,
    pub bytes: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
}

/// The log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Log {
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    /// Not yet in the backing.
    pub dirty_bytes: u64,
    pub appended_lsn: u64,
    pub durable_lsn: u64,
    pub oldest_dirty_seconds: f64,
    pub device_syncs: u64,
    /// Syncs of the log that failed since the mount.
    pub sync_failures: u64,
    /// Segments whose last sync failed and that are not written to another file yet.
    pub segments_latched: u64,
    /// Segments that were, with what they held verified.
    pub segments_rewritten: u64,
    pub segments: Segments,
}

/// Segments by state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segments {
    pub free: u64,
    pub reserved: u64,
    pub open: u64,
    pub sealed: u64,
}

/// The way to the backing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Writeback {
    pub backlog_bytes: u64,
    /// Files with something not yet stored.
    pub files: u64,
    pub bytes_per_second: u64,
    /// None when there is nothing to say yet.
    pub eta_seconds: Option<f64>,
    pub stored_bytes: u64,
    pub absorbed_bytes: u64,
    pub requests: u64,
    pub retries: u64,
    pub errors: u64,
    /// Files that something else changed in the backing while they were changed here.
    pub conflicts: u64,
    /// Closes of files that had been written: what a store at each close would have brought.
    pub closes_after_write: u64,
    /// Contents of files brought to the backing, whole or as an update in place.
    pub contents_stored: u64,
    /// Of those closes, how many needed no store of their own.
    pub uploads_saved: u64,
    pub last_error: Option<String>,
    /// What the upload hours do now, if something.
    pub note: Option<String>,
}

/// The predictor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub interval_ms: u64,
    pub horizon_ms: u64,
    pub model: String,
    pub confidence: f64,
    /// Why the static size is used instead, if it is.
    pub fallback: Option<String>,
    pub expected_requests: f64,
    pub expected_request_bytes: f64,
    pub expected_bytes: f64,
    /// What is made ready for: the .95 and .99 quantiles of the horizon's bytes, no more than is worth waiting for.
    pub q95_bytes: f64,
    pub q99_bytes: f64,
    pub actual_requests: u64,
    pub actual_bytes: u64,
    pub reserve_hits: u64,
    pub reserve_misses: u64,
    pub stalls: u64,
    pub idle_reserved_bytes: u64,
    pub tick_p50_us: u64,
    pub tick_p99_us: u64,
}

/// One client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// `pid:start time`.
    pub client: String,
    pub pid: u32,
    pub program: String,
    pub requests: u64,
    pub bytes: u64,
    pub dirty_bytes: u64,
    pub segment_bytes: u64,
    pub reserved_bytes: u64,
    pub expected_bytes: f64,
    /// Of all dirty bytes, 0 to 1.
    pub share: f64,
    pub throttled_seconds: f64,
    /// Service time of its writes, within a fifth.
    pub p99_us: u64,
    /// The process is no more.
    pub ended: bool,
}

impl Default for Status {
    fn default() -> Self {
        Status {
            version: STATUS_VERSION,
            state: State::Serving,
            reason: None,
            pid: 0,
            mountpoint: String::new(),
            backing: String::new(),
            backing_kind: String::new(),
            store_requests: BTreeMap::new(),
            read_cache: ReadCache::default(),
            kept: Kept::default(),
            log_dir: String::new(),
            uptime_seconds: 0.0,
            transport: String::new(),
            umount_waits: false,
            metrics: None,
            open_handles: 0,
            requests: Requests::default(),
            log: Log::default(),
            writeback: Writeback::default(),
            prediction: Prediction::default(),
            clients: Vec::new(),
            settings: BTreeMap::new(),
        }
    }
}

impl Status {
    /// The snapshot made fit to send and print: the busiest clients first and no more than
    /// [`CLIENTS_MAX`], no text without bound, and no NaN or infinity, which JSON would show as `null`.
    pub fn tidy(mut self) -> Status {
        self.clients.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.client.cmp(&b.client)));
        self.clients.truncate(CLIENTS_MAX);
        for c in &mut self.clients {
            cut(&mut c.client, 48);
            cut(&mut c.program, 64);
            for x in [&mut c.expected_bytes, &mut c.share, &mut c.throttled_seconds] {
                finite(x);
            }
        }
        let texts = [&mut self.mountpoint, &mut self.backing, &mut self.log_dir, &mut self.prediction.model];
        let options =
            [&mut self.reason, &mut self.writeback.last_error, &mut self.prediction.fallback].into_iter();
        for text in texts.into_iter().chain(options.flatten()) {
            cut(text, TEXT_BYTES_MAX);
        }
        let p = &mut self.prediction;
        for x in [
            &mut self.uptime_seconds,
            &mut self.kept.window_seconds,
            &mut self.kept.oldest_seconds,
            &mut self.log.oldest_dirty_seconds,
            &mut p.confidence,
            &mut p.expected_requests,
            &mut p.expected_request_bytes,
            &mut p.expected_bytes,
            &mut p.q95_bytes,
            &mut p.q99_bytes,
        ] {
            finite(x);
        }
        self.writeback.eta_seconds = self.writeback.eta_seconds.filter(|eta| eta.is_finite());
        self
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and options always serialise")
    }
}

fn finite(x: &mut f64) {
    if !x.is_finite() {
        *x = 0.0;
    }
}

fn cut(text: &mut String, bytes_max: usize) {
    let end = (0..=bytes_max.min(text.len())).rev().find(|&i| text.is_char_boundary(i));
    text.truncate(end.unwrap_or(0));
}

#[cfg(test)]
mod tests;
