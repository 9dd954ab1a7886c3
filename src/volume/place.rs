//! What the writeback says of the backing at the moment it changes it.

use super::Volume;
use crate::format::mutation::EntryKey;
use crate::namespace::Places;
use crate::types::{BackingId, InodeId};

impl Volume {
    /// The backing holds `ino`, there the object `id`, under `key`, beside its other names.
    pub fn placed(&self, ino: InodeId, id: BackingId, key: &EntryKey) {
        let other = {
            let mut p = self.places.write();
            let other = p.id(ino) != Some(id);
            let before = p.under(key);
            p.set(ino, id, key);
            drop_if_nameless(&mut p, before);
            other
        };
        if other {
            self.close_base(ino);
        }
    }

    /// The writeback takes away what stands under `key`. Until it says so in the log (`Placed`) a death may bring it back.
    pub fn leaves(&self, key: &EntryKey) {
        self.places.write().leaves(key);
    }

    /// What the backing held under `from` is under `to` now.
    pub fn moved(&self, from: &EntryKey, to: &EntryKey) {
        let mut p = self.places.write();
        if let Some(ino) = p.under(from)
            && let Some(id) = p.id(ino)
        {
            let before = p.under(to);
            p.set(ino, id, to);
            p.unset(from);
            drop_if_nameless(&mut p, before);
        }
    }

    /// The backing holds nothing under `key` any more. With its last known name an object is gone, unless
    /// programs have names for it: then it stands under some that were never looked at.
    pub fn unplaced(&self, key: &EntryKey) {
        let there = self.places.read().under(key);
        self.unplaced_one(key, there);
    }

    /// As `unplaced`, of what was known to stand there; nothing if the writeback has put something else there since.
    pub(super) fn unplaced_one(&self, key: &EntryKey, there: Option<InodeId>) {
        let gone = {
            // Asked before: an inode's lock comes before the places'.
            let named = there.is_some_and(|i| self.is_named(i));
            let mut p = self.places.write();
            if p.under(key) != there {
                return;
            }
            let ino = p.unset(key).filter(|&i| !p.holds(i) && !named);
            if let Some(ino) = ino {
                p.drop_object(ino);
            }
            ino
        };
        if let Some(ino) = gone {
            self.close_base(ino);
        }
    }

    /// The backing's file of an inode is another one now, or gone.
    fn close_base(&self, ino: InodeId) {
        if let Some(c) = self.table.get(ino) {
            *c.file.lock() = None;
        }
    }
}

/// With its last name an object is gone.
fn drop_if_nameless(places: &mut Places, ino: Option<InodeId>) {
    if let Some(ino) = ino.filter(|&i| !places.holds(i)) {
        places.drop_object(ino);
    }
}
