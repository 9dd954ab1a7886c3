//! The names of a moment.

use super::history::{History, Rec};
use crate::format::mutation::{EntryKey, Mutation};
use crate::types::{InodeId, Name};
use std::collections::{BTreeMap, HashMap};

/// What the names that a change touches led to before it.
pub(super) fn names_before(m: &Mutation) -> Vec<(&EntryKey, Option<InodeId>)> {
    match m {
        Mutation::Create { at, .. } | Mutation::Link { at, .. } => vec![(at, None)],
        Mutation::Unlink { at, ino } | Mutation::Rmdir { at, ino } => vec![(at, Some(*ino))],
        Mutation::Rename { from, to, ino, replaced } | Mutation::Whiteout { from, to, ino, replaced, .. } => {
            vec![(from, Some(*ino)), (to, *replaced)]
        }
        Mutation::Exchange { a, b, ino_a, ino_b } => vec![(a, Some(*ino_a)), (b, Some(*ino_b))],
        _ => Vec::new(),
    }
}

/// Where a change leaves the objects that it moves; `None`: without this name.
fn places_after(m: &Mutation) -> Vec<(InodeId, Option<&EntryKey>)> {
    match m {
        Mutation::Create { at, ino, .. } | Mutation::Link { at, ino } => vec![(*ino, Some(at))],
        Mutation::Unlink { ino, .. } | Mutation::Rmdir { ino, .. } => vec![(*ino, None)],
        Mutation::Rename { to, ino, replaced, .. } | Mutation::Whiteout { to, ino, replaced, .. } => {
            replaced.iter().map(|r| (*r, None)).chain([(*ino, Some(to))]).collect()
        }
        Mutation::Exchange { a, b, ino_a, ino_b } => vec![(*ino_a, Some(b)), (*ino_b, Some(a))],
        _ => Vec::new(),
    }
}

/// The object whose content or attributes a change sets.
pub(super) fn object_of(m: &Mutation) -> Option<InodeId> {
    match m {
        Mutation::Adopt { ino, .. }
        | Mutation::Create { ino, .. }
        | Mutation::Write { ino, .. }
        | Mutation::SetAttr { ino, .. }
        | Mutation::Zero { ino, .. }
        | Mutation::SetXattrs { ino } => Some(*ino),
        _ => None,
    }
}

/// A moment of a history.
pub struct Past<'h> {
    pub history: &'h History,
    pub at_ns: i64,
    /// Records before this one belong to the moment and what was before.
    pub(super) cut: usize,
    /// By directory, the names that changed since, and what they led to then.
    before: HashMap<InodeId, BTreeMap<Name, Option<InodeId>>>,
    /// Where objects were moved since; `None`: they lost a name last.
    moved: HashMap<InodeId, Option<EntryKey>>,
    /// Records by the objects that they change, those of names by their directories.
    pub(super) by_object: HashMap<InodeId, Vec<usize>>,
    /// What is kept of an object, by its place among the images.
    pub(super) images: HashMap<InodeId, Vec<usize>>,
}

impl<'h> Past<'h> {
    /// The moment `at_ns`, in nanoseconds since 1970. Errors: it is not within the history; in words that go on from a path.
    pub fn new(history: &'h History, at_ns: i64) -> Result<Past<'h>, String> {
        if at_ns < history.floor_ns {
            return Err("is before what is kept".to_owned());
        }
        let cut = history.recs.iter().rposition(|r| r.wall_ns <= at_ns).map_or(0, |n| n + 1);
        let mut p = Past {
            history,
            at_ns,
            cut,
            before: HashMap::new(),
            moved: HashMap::new(),
            by_object: HashMap::new(),
            images: HashMap::new(),
        };
        for r in history.recs[cut..].iter().rev() {
            for (key, was) in names_before(&r.change) {
                p.before.entry(key.parent).or_default().insert(key.name.clone(), was);
            }
        }
        for r in &history.recs[cut..] {
            for (ino, at) in places_after(&r.change) {
                p.moved.insert(ino, at.cloned());
            }
        }
        for (n, r) in history.recs.iter().enumerate() {
            let dirs = names_before(&r.change).into_iter().map(|(k, _)| k.parent);
            let mut seen: Vec<InodeId> = Vec::new();
            for ino in object_of(&r.change).into_iter().chain(dirs) {
                if !seen.contains(&ino) {
                    seen.push(ino);
                    p.by_object.entry(ino).or_default().push(n);
                }
            }
        }
        for (n, i) in history.images.iter().enumerate() {
            p.images.entry(InodeId(i.kept.ino())).or_default().push(n);
        }
        Ok(p)
    }

    /// What a name led to, if it changed since: `Some(None)` is nothing.
    pub fn name(&self, dir: InodeId, name: &[u8]) -> Option<Option<InodeId>> {
        self.before.get(&dir)?.get(name).copied()
    }

    /// The names of a directory that changed since, and what they led to.
    pub fn names(&self, dir: InodeId) -> impl Iterator<Item = (&Name, Option<InodeId>)> {
        self.before.get(&dir).into_iter().flatten().map(|(n, i)| (n, *i))
    }

    /// Where an object is by now, if it was moved or made since: `Some(None)` is nowhere, as far as is known.
    pub fn moved(&self, ino: InodeId) -> Option<Option<&EntryKey>> {
        self.moved.get(&ino).map(Option::as_ref)
    }

    /// The last record of the moment.
    pub(super) fn cut_lsn(&self) -> u64 {
        match self.history.recs.get(self.cut) {
            Some(next) => next.lsn - 1,
            None => self.history.recs.last().map_or(u64::MAX - 1, |r| r.lsn),
        }
    }

    pub(super) fn recs_of(&self, ino: InodeId) -> impl Iterator<Item = (usize, &'h Rec)> + '_ {
        self.by_object.get(&ino).into_iter().flatten().map(|&n| (n, &self.history.recs[n]))
    }
}
