//! Bringing inodes into memory from the backing, and dropping them again.

use super::Volume;
use super::error::{Error, Result};
use super::table::Cell;
use crate::backing::{BackingPath, BackingStat};
use crate::format::mutation::EntryKey;
use crate::namespace::{Node, Place};
use crate::sys::patience;
use crate::types::{InodeId, Kind, NAME_BYTES_MAX, Name};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Checks a name that a program gave. The gateway's own folder at the root cannot be named.
pub fn valid_name(parent: InodeId, name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(Error::Invalid);
    }
    if parent == InodeId::ROOT && name == b".forelog" {
        return Err(Error::NotPermitted);
    }
    Ok(())
}

impl Volume {
    /// Fails with `WouldBlock` where this thread may not wait for a store that may be slow.
    pub fn may_ask_backing(&self) -> Result<()> {
        if self.backing.remote() && !patience::may_wait() { Err(Error::WouldBlock) } else { Ok(()) }
    }

    /// The inode that `name` in `parent` leads to, asking the backing where memory does not know.
    pub fn resolve(&self, parent: &Arc<Cell>, name: &Name) -> Result<Option<Arc<Cell>>> {
        loop {
            let (known, version) = {
                let p = parent.read();
                let Some(d) = &p.node.dir else { return Err(Error::NotDirectory) };
                match d.entries.get(name) {
                    Some(e) => (Some(e.target), d.version),
                    None if d.complete || p.node.is_dead() => return Ok(None),
                    None => (None, d.version),
                }
            };
            if let Some(target) = known {
                let Some(id) = target else { return Ok(None) };
                if let Some(c) = self.table.get(id) {
                    return Ok(Some(c));
                }
            }
            let Some(stat) = self.ask(parent.id, name)? else {
                return self.vanished(parent, name, known.is_some());
            };
            if let Some(c) = self.admit(parent, name, &stat, version) {
                if stat.attr.nlink > 1 && stat.attr.kind != Kind::Dir {
                    // A further name of an inode that was known by another.
                    let key = EntryKey { parent: parent.id, name: name.clone() };
                    let mut i = c.write();
                    if !i.node.parents.contains(&key) {
                        i.node.parents.push(key);
                    }
                }
                return Ok(Some(c));
            }
        }
    }

    /// A clean name that the backing no longer has was removed behind our back.
    fn vanished(&self, parent: &Arc<Cell>, name: &Name, known: bool) -> Result<Option<Arc<Cell>>> {
        if known {
            let mut p = parent.write();
            if let Some(d) = &mut p.node.dir
                && d.entries.get(name).is_some_and(|e| e.lsn == crate::types::Lsn::NONE)
            {
                d.entries.remove(name);
                d.version += 1;
            }
        }
        Ok(None)
    }

    fn ask(&self, parent: InodeId, name: &Name) -> Result<Option<BackingStat>> {
        self.may_ask_backing()?;
        let _tree = self.tree.read();
        let Some(dir) = self.places.read().path(parent) else { return Ok(None) };
        match self.backing.stat(&BackingPath(dir).join(name)) {
            Ok(s) => Ok(Some(s)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::Backing(e)),
        }
    }

    /// Takes in what the backing said of a name; `None` if the name changed meanwhile.
    fn admit(&self, parent: &Arc<Cell>, name: &Name, stat: &BackingStat, version: u64) -> Option<Arc<Cell>> {
        let mut p = parent.write();
        let d = p.node.dir.as_mut()?;
        if d.version != version {
            return None;
        }
        let key = EntryKey { parent: parent.id, name: name.clone() };
        let mut places = self.places.write();
        let ino = places.number(stat.id);
        let cell = match self.table.get(ino) {
            Some(c) => c,
            None => {
                let mut node = Node::new(ino, stat.attr);
                node.parents.push(key.clone());
                self.table.insert(Cell::new(node))
            }
        };
        if !places.holds(ino) {
            places.set(ino, Place { id: stat.id, at: key });
        }
        // A name whose inode was dropped from memory is there, clean; others are new.
        d.found(name, ino);
        match d.entries.get(name).map(|e| e.target) {
            Some(Some(t)) if t == ino => Some(cell),
            Some(_) => {
                // Something else stands there now: the backing was changed behind our back.
                d.entries.remove(name);
                d.version += 1;
                d.found(name, ino);
                Some(cell)
            }
            None => None,
        }
    }

    /// Adds a kernel reference. False: it left memory meanwhile, resolve it again.
    pub fn hold(&self, cell: &Arc<Cell>) -> bool {
        self.table.hold(cell)
    }

    /// The kernel gave back `n` references; what nothing needs leaves memory.
    pub fn forget(&self, id: InodeId, n: u64) {
        let Some(cell) = self.table.get(id) else { return };
        let before = cell
            .lookups
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |v| Some(v.saturating_sub(n)))
            .unwrap_or(0);
        if before <= n {
            self.evict(&cell);
        }
    }

    /// Drops an inode from memory if nothing refers to it and the backing has all of it.
    pub fn evict(&self, cell: &Arc<Cell>) {
        if cell.id == InodeId::ROOT || in_use(cell) {
            return;
        }
        let (clean, dead, key) = {
            let mut i = cell.write();
            let dead = i.node.is_dead();
            if dead && !in_use(cell) {
                self.drop_content(&mut i);
            }
            let clean = !i.node.is_dirty() && i.map.is_empty() && i.node.intents.is_empty();
            let dead = dead && !i.node.undrained_dead_dir();
            (clean, dead, i.node.parents.first().cloned())
        };
        if dead {
            self.table.remove_if(cell.id, |c| !in_use(c));
            return;
        }
        if !clean || self.is_awaited(cell) {
            return;
        }
        // The parent's lock keeps a lookup from finding it between the two removals.
        let parent = key.as_ref().and_then(|k| self.table.get(k.parent));
        let mut p = parent.as_ref().map(|p| p.write());
        let mut places = self.places.write();
        if !places.holds(cell.id) || in_use(cell) || !places.forget(cell.id) {
            return;
        }
        // Under the table's lock nothing may wait for an inode's.
        let gone = self.table.remove_if(cell.id, |c| !in_use(c) && c.try_clean());
        if gone
            && let (Some(p), Some(k)) = (p.as_mut(), key)
            && let Some(d) = &mut p.node.dir
        {
            d.forget(&k.name);
        }
    }

    /// True while a name that the backing does not have yet leads to it: without the inode in memory
    /// nobody would know what the name stands for.
    fn is_awaited(&self, cell: &Arc<Cell>) -> bool {
        let names: Vec<EntryKey> = cell.read().node.parents.to_vec();
        names.iter().any(|k| {
            self.entry(k)
                .is_some_and(|(target, _, lsn)| target == Some(cell.id) && lsn != crate::types::Lsn::NONE)
        })
    }

    /// Looks for an inode of the backing that is not where it was last known to be under its other
    /// names. True: its place is right now.
    pub(super) fn heal_place(&self, cell: &Arc<Cell>) -> bool {
        let Some(place) = self.places.read().get(cell.id).cloned() else { return false };
        let is_at = |dir: Option<Vec<u8>>, name: &Name| {
            dir.is_some_and(|d| self.backing.stat(&BackingPath(d).join(name)).is_ok_and(|s| s.id == place.id))
        };
        let dir_of = |ino: InodeId| self.places.read().path(ino);
        if is_at(dir_of(place.at.parent), &place.at.name) {
            return true;
        }
        let names: Vec<EntryKey> = cell.read().node.parents.to_vec();
        for key in names {
            if is_at(dir_of(key.parent), &key.name) {
                self.places.write().set(cell.id, Place { id: place.id, at: key });
                return true;
            }
        }
        false
    }

    /// Asks the backing about an inode where it is. `None`: the backing does not hold it. An inode that
    /// turns out to be elsewhere is looked for under its other names.
    pub(super) fn at_place<T>(
        &self,
        cell: &Arc<Cell>,
        ask: impl Fn(&BackingPath) -> io::Result<T>,
    ) -> Result<Option<T>> {
        let _tree = self.tree.read();
        for again in [true, false] {
            let path = self.places.read().path(cell.id);
            let Some(path) = path else { return Ok(None) };
            match ask(&BackingPath(path)) {
                Ok(v) => return Ok(Some(v)),
                Err(e) if e.kind() == io::ErrorKind::NotFound && again => {
                    if !self.heal_place(cell) {
                        return Err(Error::Backing(e));
                    }
                }
                Err(e) => return Err(Error::Backing(e)),
            }
        }
        Ok(None)
    }

    /// Extended attributes of an inode, read from the backing the first time.
    pub fn xattrs(&self, cell: &Arc<Cell>) -> Result<Vec<(Name, Vec<u8>)>> {
        if let Some(x) = &cell.read().node.xattrs {
            return Ok(x.clone());
        }
        self.may_ask_backing()?;
        let found = self.at_place(cell, |path| self.backing.xattrs(path))?.unwrap_or_default();
        let mut i = cell.write();
        Ok(i.node.xattrs.get_or_insert(found).clone())
    }

    /// Target of a symlink.
    pub fn readlink(&self, cell: &Arc<Cell>) -> Result<Vec<u8>> {
        {
            let i = cell.read();
            if i.node.attr.kind != Kind::Symlink {
                return Err(Error::Invalid);
            }
            if let Some(t) = &i.node.target {
                return Ok(t.to_vec());
            }
        }
        self.may_ask_backing()?;
        let target = self.at_place(cell, |path| self.backing.readlink(path))?.ok_or(Error::NotFound)?;
        cell.write().node.target = Some(target.clone().into());
        Ok(target)
    }
}

fn in_use(c: &Arc<Cell>) -> bool {
    c.lookups.load(Ordering::Acquire) > 0 || c.opens.load(Ordering::Acquire) > 0
}
