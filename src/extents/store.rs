//! Extents by where they start. Most files have one at a time, and the smallest node of a tree takes ten
//! times its room: a tree is only made for the second.

use super::Extent;
use std::collections::BTreeMap;

/// Invariant: at most one of the two is there, and a tree is never empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    one: Option<(u64, Extent)>,
    tree: Option<BTreeMap<u64, Extent>>,
}

impl Store {
    pub fn is_empty(&self) -> bool {
        self.one.is_none() && self.tree.is_none()
    }
    pub fn len(&self) -> usize {
        self.tree.as_ref().map_or(self.one.is_some() as usize, |t| t.len())
    }
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Extent)> {
        let tree = self.tree.iter().flat_map(|t| t.iter().map(|(&s, e)| (s, e)));
        self.one.iter().map(|(s, e)| (*s, e)).chain(tree)
    }
    /// The last one that starts before `at`.
    pub fn before(&self, at: u64) -> Option<(u64, &Extent)> {
        match &self.tree {
            Some(t) => t.range(..at).next_back().map(|(&s, e)| (s, e)),
            None => self.one.as_ref().filter(|o| o.0 < at).map(|(s, e)| (*s, e)),
        }
    }
    /// Those that start in a range, in order.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Extent)> {
        let end = end.max(start);
        let one = self.one.iter().filter(move |o| (start..end).contains(&o.0)).map(|(s, e)| (*s, e));
        one.chain(self.tree.iter().flat_map(move |t| t.range(start..end).map(|(&s, e)| (s, e))))
    }
    pub fn first_within(&self, start: u64, end: u64) -> Option<(u64, Extent)> {
        self.within(start, end).next().map(|(s, e)| (s, *e))
    }
    pub fn insert(&mut self, start: u64, e: Extent) {
        if let Some(t) = &mut self.tree {
            t.insert(start, e);
            return;
        }
        match self.one.take() {
            Some(o) if o.0 != start => self.tree = Some(BTreeMap::from([o, (start, e)])),
            _ => self.one = Some((start, e)),
        }
    }
    pub fn remove(&mut self, start: u64) {
        if let Some(t) = &mut self.tree {
            t.remove(&start);
        }
        self.one = self.one.filter(|o| o.0 != start);
        self.settle();
    }
    pub fn retain(&mut self, mut keep: impl FnMut(&Extent) -> bool) {
        if let Some(t) = &mut self.tree {
            t.retain(|_, e| keep(e));
        }
        self.one = self.one.filter(|o| keep(&o.1));
        self.settle();
    }
    fn settle(&mut self) {
        if self.tree.as_ref().is_some_and(|t| t.is_empty()) {
            self.tree = None;
        }
    }
}
