//! The writeback's queue: inodes with something unstored, oldest first.

use crate::types::InodeId;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Inodes that wait for the writeback.
#[derive(Default)]
pub struct DirtyQueue {
    queue: Mutex<VecDeque<(i64, InodeId)>>,
}

impl DirtyQueue {
    pub(super) fn push(&self, since_ns: i64, id: InodeId) {
        self.queue.lock().push_back((since_ns, id));
    }
    /// Takes up to `n` that have waited since before `before_ns`.
    pub fn take(&self, n: usize, before_ns: i64) -> Vec<(i64, InodeId)> {
        let mut q = self.queue.lock();
        let mut out = Vec::new();
        while out.len() < n && q.front().is_some_and(|f| f.0 <= before_ns) {
            out.extend(q.pop_front());
        }
        out
    }
    /// Puts inodes back to the front, in their old order.
    pub fn put_back(&self, items: Vec<(i64, InodeId)>) {
        let mut q = self.queue.lock();
        for i in items.into_iter().rev() {
            q.push_front(i);
        }
    }
    /// Puts one that failed behind the others; it keeps its age.
    pub fn requeue(&self, since_ns: i64, id: InodeId) {
        self.queue.lock().push_back((since_ns, id));
    }
    /// Time since when the oldest waits, wall clock.
    pub fn oldest_ns(&self) -> Option<i64> {
        self.queue.lock().iter().map(|f| f.0).min()
    }
    /// Time of the first in line.
    pub fn first_ns(&self) -> Option<i64> {
        self.queue.lock().front().map(|f| f.0)
    }
    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.lock().len()
    }
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }
}
