//! The names of one directory that are known here.

use crate::types::{InodeId, Lsn, Name, Pos};
use std::collections::{BTreeMap, HashSet};

/// Most names of a directory that are kept for the time when the backing does not answer.
pub const SEEN_NAMES_MAX: usize = 4096;

/// One name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What programs find under it; `None`: nothing, whatever the backing still holds.
    pub target: Option<InodeId>,
    /// Last change that the backing does not have; `NONE` when it agrees.
    pub lsn: Lsn,
    /// The record of the last change, for its successors to depend on.
    pub pos: Pos,
}

/// The known names of a directory.
#[derive(Clone, Debug, Default)]
pub struct Dir {
    pub entries: BTreeMap<Name, Entry>,
    /// Every name is in `entries`: the backing need not be asked.
    pub complete: bool,
    /// Raised whenever a name changes or is dropped, so that a lookup in the backing that was under
    /// way meanwhile is not believed.
    pub version: u64,
    /// Entries whose `lsn` is set.
    pub dirty: usize,
    /// Names that the backing had when it was listed last, kept in step with our own changes: what a lookup goes by
    /// while the backing does not answer. Few directories have it, and none with too many names.
    pub seen: Option<Box<HashSet<Name>>>,
    /// Clean names that stay only because all are here: their inodes left memory.
    pub kept: usize,
}

impl Dir {
    /// Sets what programs find under `name` by the record at `pos`.
    pub fn set(&mut self, name: &Name, target: Option<InodeId>, pos: Pos) {
        self.version += 1;
        let old = self.entries.insert(name.clone(), Entry { target, lsn: pos.lsn, pos });
        if old.is_none_or(|e| e.lsn == Lsn::NONE) {
            self.dirty += 1;
        }
    }

    /// The backing was found to hold `ino` under `name`; says nothing if the name is known already.
    pub fn found(&mut self, name: &Name, ino: InodeId) {
        self.entries.entry(name.clone()).or_insert(Entry {
            target: Some(ino),
            lsn: Lsn::NONE,
            pos: Pos::default(),
        });
    }

    /// The backing agrees with all changes of `name` up to `as_of`.
    pub fn stored(&mut self, name: &Name, as_of: Lsn) {
        self.version += 1;
        let Some(e) = self.entries.get_mut(name) else { return };
        if e.lsn != Lsn::NONE && e.lsn <= as_of {
            e.lsn = Lsn::NONE;
            self.dirty -= 1;
            if e.target.is_none() {
                self.entries.remove(name);
                if let Some(s) = &mut self.seen {
                    s.remove(name);
                }
            }
        }
    }

    /// The inode of a clean name left memory: so does the name, unless all names are here. Returns
    /// whether it stays.
    pub fn forget(&mut self, name: &Name) -> bool {
        if self.entries.get(name).is_none_or(|e| e.lsn != Lsn::NONE) {
            return false;
        }
        // What was asked about it before says what it was then.
        self.version += 1;
        if self.complete {
            self.kept += 1;
            return true;
        }
        self.entries.remove(name);
        if let Some(s) = &mut self.seen {
            s.insert(name.clone());
        }
        false
    }

    /// The backing does not answer: whether it has no such name for all that is known.
    pub fn is_likely_absent(&self, name: &Name) -> bool {
        self.seen.as_ref().is_some_and(|s| !s.contains(name))
    }

    /// Knows all names no longer: drops the clean ones whose inode is not `here`, the backing has them.
    pub fn open_up(&mut self, here: impl Fn(InodeId) -> bool) {
        if self.complete && self.entries.len() <= SEEN_NAMES_MAX {
            let clean = self.entries.iter().filter(|(_, e)| e.lsn == Lsn::NONE && e.target.is_some());
            self.seen = Some(Box::new(clean.map(|(n, _)| n.clone()).collect()));
        }
        self.complete = false;
        self.kept = 0;
        self.version += 1;
        self.entries.retain(|_, e| e.lsn != Lsn::NONE || e.target.is_some_and(&here));
    }

    /// The latest unstored records of all names, one a segment: what emptiness depends on.
    pub fn positions(&self) -> Vec<Pos> {
        let mut out: Vec<Pos> = Vec::new();
        for e in self.entries.values().filter(|e| e.lsn != Lsn::NONE) {
            match out.iter_mut().find(|p| p.segment == e.pos.segment) {
                Some(p) if p.lsn < e.pos.lsn => *p = e.pos,
                Some(_) => {}
                None => out.push(e.pos),
            }
        }
        out
    }
}
