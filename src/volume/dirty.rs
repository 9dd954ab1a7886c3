//! The writeback's queue: inodes with something unstored, oldest first.

use crate::types::InodeId;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};

#[derive(Default)]
struct Lines {
    /// Asked to go before all others, whatever their age.
    first: VecDeque<(i64, InodeId)>,
    queue: VecDeque<(i64, InodeId)>,
    /// Who was asked to go first and is not stored yet, taken out or not.
    bumped: HashSet<InodeId>,
}

impl Lines {
    fn line_of(&mut self, id: InodeId) -> &mut VecDeque<(i64, InodeId)> {
        if self.bumped.contains(&id) { &mut self.first } else { &mut self.queue }
    }
}

/// Inodes that wait for the writeback.
#[derive(Default)]
pub struct DirtyQueue {
    lines: Mutex<Lines>,
}

impl DirtyQueue {
    pub(super) fn push(&self, since_ns: i64, id: InodeId) {
        self.lines.lock().queue.push_back((since_ns, id));
    }
    /// Takes up to `n`: those that were asked to go first, then those that have waited since before `before_ns`.
    pub fn take(&self, n: usize, before_ns: i64) -> Vec<(i64, InodeId)> {
        let mut out = self.take_first(n);
        let q = &mut self.lines.lock().queue;
        while out.len() < n && q.front().is_some_and(|f| f.0 <= before_ns) {
            out.extend(q.pop_front());
        }
        out
    }
    /// Takes up to `n` of those that were asked to go first.
    pub fn take_first(&self, n: usize) -> Vec<(i64, InodeId)> {
        let q = &mut self.lines.lock().first;
        let n = n.min(q.len());
        q.drain(..n).collect()
    }
    /// Puts inodes back to the front, in their old order.
    pub fn put_back(&self, items: Vec<(i64, InodeId)>) {
        let mut l = self.lines.lock();
        for i in items.into_iter().rev() {
            l.line_of(i.1).push_front(i);
        }
    }
    /// Puts one that failed behind the others; it keeps its age.
    pub fn requeue(&self, since_ns: i64, id: InodeId) {
        self.lines.lock().line_of(id).push_back((since_ns, id));
    }
    /// Has these go before all others, in their order. Returns how many of them were waiting.
    pub fn bump(&self, ids: &HashSet<InodeId>) -> usize {
        let mut l = self.lines.lock();
        let (chosen, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut l.queue).into_iter().partition(|i| ids.contains(&i.1));
        l.queue = rest;
        let there = l.first.iter().filter(|i| ids.contains(&i.1)).count();
        l.bumped.extend(chosen.iter().map(|i| i.1));
        let n = chosen.len() + there;
        l.first.extend(chosen);
        n
    }
    /// Its stay has ended.
    pub(super) fn done(&self, id: InodeId) {
        let mut l = self.lines.lock();
        if !l.bumped.is_empty() {
            l.bumped.remove(&id);
        }
    }
    /// All that wait: since when, who, and whether it was asked to go first. Those first.
    pub fn all(&self) -> Vec<(i64, InodeId, bool)> {
        let l = self.lines.lock();
        let of = |i: &(i64, InodeId), first| (i.0, i.1, first);
        l.first.iter().map(|i| of(i, true)).chain(l.queue.iter().map(|i| of(i, false))).collect()
    }
    /// Whether it was asked to go first.
    pub fn is_bumped(&self, id: InodeId) -> bool {
        self.lines.lock().bumped.contains(&id)
    }
    /// Time since when the oldest waits, wall clock.
    pub fn oldest_ns(&self) -> Option<i64> {
        let l = self.lines.lock();
        l.queue.iter().chain(&l.first).map(|f| f.0).min()
    }
    /// Time of the first in line.
    pub fn first_ns(&self) -> Option<i64> {
        let l = self.lines.lock();
        l.queue.front().or(l.first.front()).map(|f| f.0)
    }
    /// How many wait.
    pub fn len(&self) -> usize {
        let l = self.lines.lock();
        l.first.len() + l.queue.len()
    }
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(of: Vec<(i64, InodeId)>) -> Vec<u64> {
        of.into_iter().map(|i| i.1.0).collect()
    }

    #[test]
    fn the_oldest_first_and_before_them_what_was_asked_for() {
        let q = DirtyQueue::default();
        (1..=6).for_each(|n| q.push(n as i64 * 10, InodeId(n)));
        assert_eq!(q.bump(&[InodeId(5), InodeId(3), InodeId(99)].into()), 2);
        assert_eq!((q.len(), q.oldest_ns(), q.first_ns()), (6, Some(10), Some(10)));
        assert_eq!(q.bump(&[InodeId(5)].into()), 1);
        let taken = q.take(4, 20);
        assert_eq!(ids(taken.clone()), [3, 5, 1, 2]);
        // A batch that failed as a whole, and one of its inodes that did.
        q.put_back(taken);
        assert_eq!(ids(q.take_first(9)), [3, 5]);
        q.requeue(50, InodeId(5));
        q.requeue(10, InodeId(1));
        assert_eq!(ids(q.take_first(9)), [5]);
        assert!(q.is_bumped(InodeId(5)));
        // Stored, and changed again: as any other.
        q.done(InodeId(5));
        q.push(100, InodeId(5));
        assert!(q.take_first(9).is_empty() && !q.is_bumped(InodeId(5)));
        assert_eq!(q.all().len(), q.len());
    }
}
