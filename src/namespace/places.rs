//! Where in the backing the known inodes are: a tree of its own, since programs may have moved what
//! the writeback has not moved yet. Only the writeback changes it.

use crate::format::mutation::EntryKey;
use crate::types::{BackingId, InodeId};
use std::collections::HashMap;

/// A place in the backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: BackingId,
    pub at: EntryKey,
}

struct Record {
    place: Place,
    children: u32,
}

/// The tree of places, and which inode an object of the backing is.
pub struct Places {
    map: HashMap<InodeId, Record>,
    /// Objects whose inode number is not their own: those made here, and the root.
    numbers: HashMap<BackingId, InodeId>,
    root: BackingId,
}

/// Parked objects hang below this; no inode has the number.
pub const PARKED: InodeId = InodeId(u64::MAX);

impl Places {
    /// The tree with nothing but the root.
    pub fn new(root: BackingId) -> Places {
        let numbers = HashMap::from([(root, InodeId::ROOT)]);
        Places { map: HashMap::new(), numbers, root }
    }

    /// Number of the inode that is this object.
    pub fn number(&self, id: BackingId) -> InodeId {
        self.numbers.get(&id).copied().unwrap_or(InodeId(id.0))
    }

    /// Where an inode is; `None`: not in the backing (the root has no place but is there).
    pub fn get(&self, ino: InodeId) -> Option<&Place> {
        self.map.get(&ino).map(|r| &r.place)
    }

    /// True when the backing holds it.
    pub fn holds(&self, ino: InodeId) -> bool {
        ino == InodeId::ROOT || self.map.contains_key(&ino)
    }

    /// An inode is at `place` now.
    pub fn set(&mut self, ino: InodeId, place: Place) {
        if ino == InodeId::ROOT {
            return;
        }
        let children = match self.map.get(&ino) {
            Some(old) => {
                let (parent, id, n) = (old.place.at.parent, old.place.id, old.children);
                self.leave(parent);
                if id != place.id && self.numbers.get(&id) == Some(&ino) {
                    self.numbers.remove(&id);
                }
                n
            }
            None => 0,
        };
        if let Some(p) = self.map.get_mut(&place.at.parent) {
            p.children += 1;
        }
        if place.id.0 != ino.0 {
            self.numbers.insert(place.id, ino);
        }
        self.map.insert(ino, Record { place, children });
    }

    fn leave(&mut self, parent: InodeId) {
        if let Some(p) = self.map.get_mut(&parent) {
            p.children = p.children.saturating_sub(1);
        }
    }

    /// Counts the children anew, after places were set in any order.
    pub fn recount(&mut self) {
        let parents: Vec<InodeId> = self.map.values().map(|r| r.place.at.parent).collect();
        self.map.values_mut().for_each(|r| r.children = 0);
        for p in parents {
            if let Some(r) = self.map.get_mut(&p) {
                r.children += 1;
            }
        }
    }

    /// The backing no longer holds it.
    pub fn gone(&mut self, ino: InodeId) {
        if let Some(old) = self.map.remove(&ino) {
            self.leave(old.place.at.parent);
            // The store may have given its number to another object since.
            if old.place.id != self.root && self.numbers.get(&old.place.id) == Some(&ino) {
                self.numbers.remove(&old.place.id);
            }
        }
    }

    /// Drops a clean inode's place from memory, unless others hang below it. Its number is kept.
    pub fn forget(&mut self, ino: InodeId) -> bool {
        if self.map.get(&ino).is_some_and(|r| r.children > 0) {
            return false;
        }
        if let Some(old) = self.map.remove(&ino) {
            self.leave(old.place.at.parent);
        }
        true
    }

    /// Path of an inode in the backing, as names from the root. `None` if it is not there.
    pub fn path(&self, ino: InodeId) -> Option<Vec<u8>> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = ino;
        while at != InodeId::ROOT {
            if at == PARKED {
                names.push(b".forelog/park");
                break;
            }
            let p = &self.map.get(&at)?.place;
            names.push(&p.at.name);
            at = p.at.parent;
            if names.len() > 4096 {
                return None;
            }
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// All numbers that differ from the object's own.
    pub fn numbers(&self) -> impl Iterator<Item = (BackingId, InodeId)> + '_ {
        self.numbers.iter().map(|(&a, &b)| (a, b)).filter(|p| p.1 != InodeId::ROOT)
    }

    /// Takes over numbers kept from an earlier mount.
    pub fn load_numbers(&mut self, numbers: impl IntoIterator<Item = (BackingId, InodeId)>) {
        for (id, ino) in numbers {
            if id != self.root {
                self.numbers.insert(id, ino);
            }
        }
    }

    /// Inodes with a place in memory.
    pub fn len(&self) -> usize {
        self.map.len()
    }
    /// True when only the root is known.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}
