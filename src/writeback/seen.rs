//! What others may see of the batch that is on its way, and of what failed.

use crate::types::InodeId;
use std::collections::HashMap;

/// Failures that are remembered, each with its reason.
const FAILURES_MAX: usize = 4096;
/// Longest reason in bytes.
const REASON_BYTES_MAX: usize = 300;

/// The writeback's work as it is now.
#[derive(Default)]
pub struct Seen {
    /// The inodes that are on their way, and since when each waits.
    pub current: Vec<(i64, InodeId)>,
    failures: HashMap<InodeId, String>,
    /// Monotonic time of the next try after a failure; 0: none failed.
    pub retry_at_ns: u64,
    /// What holds the writeback back or drives it, if something does: the upload hours.
    pub note: Option<String>,
    /// Only what was asked to go first goes.
    pub shut: bool,
}

impl Seen {
    /// Why its last try failed.
    pub fn failure(&self, ino: InodeId) -> Option<&str> {
        self.failures.get(&ino).map(String::as_str)
    }
    /// How many failed and wait for another try.
    pub fn failures(&self) -> usize {
        self.failures.len()
    }
    pub(super) fn failed(&mut self, ino: InodeId, why: &str) {
        if self.failures.len() < FAILURES_MAX || self.failures.contains_key(&ino) {
            let end = (0..=why.len().min(REASON_BYTES_MAX)).rev().find(|&i| why.is_char_boundary(i));
            self.failures.insert(ino, why[..end.unwrap_or(0)].to_owned());
        }
    }
    pub(super) fn stored(&mut self, ino: InodeId) {
        if !self.failures.is_empty() {
            self.failures.remove(&ino);
        }
    }
    pub(super) fn all_stored(&mut self) {
        self.failures.clear();
    }
}
