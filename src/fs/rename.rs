//! rename, with RENAME_NOREPLACE, RENAME_EXCHANGE and RENAME_WHITEOUT.

use super::create::{New, new_attr};
use super::{Fs, Who};
use crate::format::mutation::{EntryKey, Mutation};
use crate::types::{Attr, InodeId, Kind, Stamp};
use crate::volume::{Cell, Data, Error, Locked, Result};
use crate::wal::Class;
use std::sync::Arc;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

impl Fs {
    /// Moves a name. `flags` as renameat2(2).
    pub fn rename(
        &self,
        who: &Who,
        (parent, name): (InodeId, &[u8]),
        (new_parent, new_name): (InodeId, &[u8]),
        flags: u32,
    ) -> Result<()> {
        self.writable()?;
        let known = flags & !(NOREPLACE | EXCHANGE | WHITEOUT) == 0;
        let alone = flags & EXCHANGE == 0 || flags == EXCHANGE;
        if !known || !alone || flags & WHITEOUT != 0 && !self.limits.special {
            return Err(Error::Invalid);
        }
        let (from, to) = (self.key(parent, name)?, self.key(new_parent, new_name)?);
        let (p, q) = (self.cell(parent)?, self.cell(new_parent)?);
        loop {
            let cell = self.volume.resolve(&p, &from.name)?.ok_or(Error::NotFound)?;
            let there = self.volume.resolve(&q, &to.name)?;
            if let Some(t) = &there {
                if flags & NOREPLACE != 0 {
                    return Err(Error::Exists);
                }
                if t.id == cell.id {
                    return Ok(());
                }
                if flags & EXCHANGE == 0 {
                    self.may_replace(&cell, t)?;
                }
            } else if flags & EXCHANGE != 0 {
                return Err(Error::NotFound);
            }
            self.fits_below(&cell, &from, &to)?;
            if let Some(t) = there.as_ref().filter(|_| flags & EXCHANGE != 0) {
                self.fits_below(t, &to, &from)?;
            }
            let change = self.volume.change(&who.client.slot);
            for c in [Some(&cell), there.as_ref(), Some(&p), Some(&q)].into_iter().flatten() {
                change.track(c)?;
            }
            let cells: Vec<&Arc<Cell>> =
                [Some(&p), Some(&q), Some(&cell), there.as_ref()].into_iter().flatten().collect();
            let mut locked = Locked::new(&cells);
            let current = |c: &Arc<Cell>| self.volume.is_current(c);
            if !current(&cell) || !there.as_ref().is_none_or(current) {
                continue;
            }
            if target(&locked, &from) != Some(cell.id) || target(&locked, &to) != there.as_ref().map(|t| t.id)
            {
                continue;
            }
            if locked.get(q.id).is_some_and(|i| i.node.is_dead()) {
                return Err(Error::NotFound);
            }
            let m = match &there {
                Some(t) if flags & EXCHANGE != 0 => {
                    Mutation::Exchange { a: from, b: to, ino_a: cell.id, ino_b: t.id }
                }
                _ => {
                    let replaced = there.as_ref().map(|t| t.id);
                    if replaced.is_some_and(|r| has_names(&locked, r)) {
                        return Err(Error::NotEmpty);
                    }
                    match flags & WHITEOUT {
                        0 => Mutation::Rename { from, to, ino: cell.id, replaced },
                        _ => {
                            let (white, attr) = self.whiteout(who, &locked, parent)?;
                            Mutation::Whiteout { from, to, ino: cell.id, replaced, white, attr }
                        }
                    }
                }
            };
            return change.commit(&mut locked, &m, Data::NONE, Class::Meta).map(drop);
        }
    }

    /// The device that an overlay takes for a deleted name: its number and attributes.
    fn whiteout(&self, who: &Who, locked: &Locked<'_>, parent: InodeId) -> Result<(InodeId, Attr)> {
        let dir = locked.get(parent).ok_or(Error::Stale)?.node.attr;
        let new = New { kind: Kind::CharDev, mode: 0, umask: 0, rdev: 0, target: &[] };
        let now = Stamp::from_ns(self.volume.clock.wall_ns());
        Ok((self.volume.new_ino(), new_attr(who, &dir, &new, now)))
    }

    /// Sees that a directory's move makes no path below it longer than the backing takes. What is not in memory is not
    /// looked at: that would be to list the whole tree.
    fn fits_below(&self, cell: &Arc<Cell>, from: &EntryKey, to: &EntryKey) -> Result<()> {
        let most = self.limits.names.path_bytes_max;
        if most == usize::MAX || cell.read().node.attr.kind != Kind::Dir {
            return Ok(());
        }
        let bytes = |k: &EntryKey| self.volume.path_bytes(k.parent) + k.name.len();
        let (old, new) = (bytes(from), bytes(to));
        // With the slash between, and that of a directory's key.
        if new > old && new + self.volume.longest_below(cell.id) + 2 > most {
            return Err(Error::NameTooLong);
        }
        Ok(())
    }

    fn may_replace(&self, cell: &Arc<Cell>, there: &Arc<Cell>) -> Result<()> {
        let dir = |c: &Arc<Cell>| c.read().node.attr.kind == Kind::Dir;
        match (dir(cell), dir(there)) {
            (true, false) => Err(Error::NotDirectory),
            (false, true) => Err(Error::IsDirectory),
            (true, true) if !self.is_empty(there)? => Err(Error::NotEmpty),
            _ => Ok(()),
        }
    }
}

fn target(locked: &Locked<'_>, key: &EntryKey) -> Option<InodeId> {
    locked.get(key.parent)?.node.dir.as_ref()?.entries.get(&key.name)?.target
}

fn has_names(locked: &Locked<'_>, ino: InodeId) -> bool {
    locked
        .get(ino)
        .and_then(|i| i.node.dir.as_ref())
        .is_some_and(|d| d.entries.values().any(|e| e.target.is_some()))
}
