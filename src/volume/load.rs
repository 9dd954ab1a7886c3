//! Bringing inodes into memory from the backing, and dropping them again.

use super::Volume;
use super::error::{Error, Result};
use super::moves::{Ticket, inside};
use super::table::{Cell, Inode, Locked};
use crate::backing::timed::DEADLINE;
use crate::backing::{BackingPath, BackingStat};
use crate::format::mutation::EntryKey;
use crate::namespace::places::PARKED;
use crate::namespace::{Node, SEEN_NAMES_MAX};
use crate::sys::patience;
use crate::types::{InodeId, Kind, Lsn, NAME_BYTES_MAX, Name};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a thread that may not wait does so for a move in the backing.
const MOMENT: Duration = Duration::from_millis(2);

fn likely_absent(dir: &Arc<Cell>, name: &Name) -> bool {
    dir.read().node.dir.as_ref().is_some_and(|d| d.is_likely_absent(name))
}

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

    /// A ticket for a look at a name of the backing: what is learned there may be taken in only if `moves` says so. Errors:
    /// `WouldBlock` where this thread may not wait; the backing hangs in a move of what is asked for.
    pub fn ticket(&self, key: &EntryKey) -> Result<Ticket> {
        let most = if patience::may_wait() { DEADLINE } else { MOMENT };
        match self.moves.ticket(&self.places, key, most, MOMENT) {
            Some(t) => Ok(t),
            None if !patience::may_wait() => Err(Error::WouldBlock),
            None => {
                let text = format!("a move in the backing has not ended for {} s", DEADLINE.as_secs());
                Err(Error::Backing(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }

    /// The inode that `name` in `parent` leads to, asking the backing where memory does not know.
    pub fn resolve(&self, parent: &Arc<Cell>, name: &Name) -> Result<Option<Arc<Cell>>> {
        loop {
            let (known, version) = {
                let p = parent.read();
                let Some(d) = &p.node.dir else { return Err(Error::NotDirectory) };
                match d.entries.get(name) {
                    Some(e) => (Some((e.target, e.lsn == Lsn::NONE)), d.version),
                    None if d.complete || p.node.is_dead() => return Ok(None),
                    None => (None, d.version),
                }
            };
            if let Some((target, clean)) = known {
                let Some(id) = target else { return Ok(None) };
                // A clean name of an inode that left memory and came back by another name: the places
                // do not know it, ask again.
                let key = EntryKey { parent: parent.id, name: name.clone() };
                if let Some(c) = self.table.get(id)
                    && (!clean || self.places.read().under(&key) == Some(id))
                {
                    return Ok(Some(c));
                }
            }
            self.may_ask_backing()?;
            let key = EntryKey { parent: parent.id, name: name.clone() };
            let asked = self.ticket(&key).and_then(|t| Ok((self.ask(&key, t)?, t)));
            let (stat, ticket) = match asked {
                Ok((Some(a), t)) => (a, t),
                // Moved meanwhile.
                Ok((None, _)) => continue,
                Err(Error::Backing(_)) if known.is_none() && likely_absent(parent, name) => return Ok(None),
                Err(e) => return Err(e),
            };
            let Some(stat) = stat else {
                match known {
                    Some(_) if !self.vanished(parent, &key, version, ticket) => continue,
                    None if parent.read().node.dir.as_ref().is_some_and(|d| d.version != version) => continue,
                    _ => return Ok(None),
                }
            };
            if let Some(c) = self.admit(parent, &key, &stat, version, ticket) {
                if stat.attr.nlink > 1 && stat.attr.kind != Kind::Dir {
                    self.named_further(parent, &c, &key);
                }
                return Ok(Some(c));
            }
        }
    }

    /// A name that was found may be a further one of an inode that is known by another; not if it was taken from it since.
    fn named_further(&self, parent: &Arc<Cell>, cell: &Arc<Cell>, key: &EntryKey) {
        let mut locked = Locked::new(&[parent, cell]);
        let entry =
            locked.get(key.parent).and_then(|p| p.node.dir.as_ref()).and_then(|d| d.entries.get(&key.name));
        let leads_here = entry.is_some_and(|e| e.target == Some(cell.id));
        if let Some(i) = locked.get_mut(cell.id).filter(|i| leads_here && !i.node.parents.contains(key)) {
            i.node.parents.push(key.clone());
        }
    }

    /// Learns the names of a directory in which programs make files, for the time when the backing does not answer.
    /// Asks until it was answered once.
    pub fn learn_names(&self, dir: &Arc<Cell>) {
        {
            let i = dir.read();
            let wanted = i.node.dir.as_ref().is_some_and(|d| !d.complete && d.seen.is_none());
            if !wanted
                || i.node.is_dead()
                || self.may_ask_backing().is_err()
                || dir.listed.swap(true, Ordering::AcqRel)
            {
                return;
            }
        }
        let Ok(ticket) = self.ticket(&inside(dir.id)) else {
            // Not now: with the next file made here.
            dir.listed.store(false, Ordering::Release);
            return;
        };
        let Some(path) = self.places.read().path(dir.id) else { return };
        let mut names = HashSet::new();
        let mut listed = self.backing.list(&BackingPath(path), &mut |e| {
            if names.len() <= SEEN_NAMES_MAX {
                names.insert(e.name);
            }
        });
        // A name that comes to the backing after this is one of ours still, and put among these once it is not.
        let mut i = dir.write();
        match self.moves.below(ticket, &self.places.read(), dir.id) {
            // One too many does no harm.
            Some(moved) => names.extend(moved),
            None => listed = Err(io::ErrorKind::ResourceBusy.into()),
        }
        dir.listed.store(listed.is_ok(), Ordering::Release);
        if listed.is_ok()
            && names.len() <= SEEN_NAMES_MAX
            && let Some(d) = &mut i.node.dir
        {
            d.seen = Some(Box::new(names));
        }
    }

    /// A clean name that the backing no longer has was removed behind our back. False: it was changed meanwhile.
    fn vanished(&self, parent: &Arc<Cell>, key: &EntryKey, version: u64, ticket: Ticket) -> bool {
        let mut p = parent.write();
        let Some(d) = p.node.dir.as_mut().filter(|d| d.version == version) else { return false };
        let there = {
            let places = self.places.read();
            if places.path_of(key).is_some() && !self.moves.holds(ticket, &places, key) {
                return false;
            }
            places.under(key)
        };
        if d.entries.get(&key.name).is_some_and(|e| e.lsn == Lsn::NONE) {
            d.entries.remove(&key.name);
            d.version += 1;
            drop(p);
            self.unplaced_one(key, there);
        }
        true
    }

    /// What the backing has under a name; `None`: that was moved meanwhile.
    fn ask(&self, key: &EntryKey, ticket: Ticket) -> Result<Option<Option<BackingStat>>> {
        let Some(path) = self.places.read().path_of(key) else {
            let left = self.table.get(key.parent).is_none();
            return if left { Err(Error::Stale) } else { Ok(Some(None)) };
        };
        let answer = self.backing.stat(&BackingPath(path));
        if !self.moves.holds(ticket, &self.places.read(), key) {
            return Ok(None);
        }
        match answer {
            Ok(s) => Ok(Some(Some(s))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Some(None)),
            Err(e) => Err(Error::Backing(e)),
        }
    }

    /// Takes in what the backing said of a name; `None` if the name changed meanwhile.
    fn admit(
        &self,
        parent: &Arc<Cell>,
        key: &EntryKey,
        stat: &BackingStat,
        version: u64,
        ticket: Ticket,
    ) -> Option<Arc<Cell>> {
        let name = &key.name;
        // Before the other locks: an inode of this number that cannot be what stands there.
        let stranger = {
            let ino = self.places.read().number(stat.id);
            self.table.get(ino).filter(|c| !may_be(&c.read().node, stat)).map(|_| ino)
        };
        let mut p = parent.write();
        let d = p.node.dir.as_mut()?;
        if d.version != version {
            return None;
        }
        let mut places = self.places.write();
        // Nothing was moved here: so what was seen stands there, and its number was given to nothing else.
        if !self.moves.holds(ticket, &places, key) {
            return None;
        }
        let mut ino = places.number(stat.id);
        let reused = stranger == Some(ino) && !places.has_name(ino, key);
        if reused || places.is_another(ino, stat.id) {
            ino = self.new_ino();
        }
        let cell = match self.table.get(ino) {
            Some(c) => c,
            None => {
                if d.complete && d.kept > 0 && d.entries.get(name).is_some_and(|e| e.target == Some(ino)) {
                    d.kept -= 1;
                    self.kept_names.fetch_sub(1, Ordering::Relaxed);
                }
                let mut node = Node::found(ino, stat.attr);
                node.parents.push(key.clone());
                self.table.insert(Cell::new(node))
            }
        };
        if !places.has_name(ino, key) {
            places.set(ino, stat.id, key);
            // The log may need to know this name of it: the next change says so.
            cell.found.fetch_add(1, Ordering::AcqRel);
            cell.tracked.store(false, Ordering::Release);
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
        let key = {
            let mut i = cell.write();
            if i.node.is_dead() {
                if !in_use(cell) {
                    self.drop_content(&mut i);
                }
                drop(i);
                self.table.remove_if(cell.id, |c| Arc::ptr_eq(c, cell) && !in_use(c));
                return;
            }
            i.node.parents.first().cloned()
        };
        // All locks together: nothing may change between the look and the removal, and a lookup must not
        // find it between the removals.
        let parent = key.as_ref().and_then(|k| self.table.get(k.parent));
        let both: Vec<&Arc<Cell>> = [Some(cell), parent.as_ref()].into_iter().flatten().collect();
        let mut locked = Locked::new(&both);
        let clean = |i: &Inode| !i.node.is_dead() && !i.node.is_dirty() && i.map.is_empty();
        if !locked.get(cell.id).is_some_and(clean) || self.is_awaited(cell.id, &locked) {
            return;
        }
        let mut places = self.places.write();
        if places.id(cell.id).is_none() || places.below(cell.id).next().is_some() {
            return;
        }
        if !self.table.remove_if(cell.id, |c| Arc::ptr_eq(c, cell) && !in_use(c)) {
            return;
        }
        places.forget(cell.id);
        if let Some(d) = locked.get(cell.id).and_then(|i| i.node.dir.as_ref()) {
            self.kept_names.fetch_sub(d.kept as i64, Ordering::Relaxed);
        }
        if let Some(k) = key
            && let Some(d) = locked.get_mut(k.parent).and_then(|p| p.node.dir.as_mut())
            && d.forget(&k.name)
        {
            self.kept_names.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True while this is the inode that its number leads to.
    pub fn is_current(&self, cell: &Arc<Cell>) -> bool {
        self.table.get(cell.id).is_some_and(|c| Arc::ptr_eq(&c, cell))
    }

    /// True when the kernel has no reference to an inode and the backing has all of it.
    pub fn is_idle(&self, ino: InodeId) -> bool {
        self.table.get(ino).is_none_or(|c| !in_use(&c) && c.try_clean())
    }

    /// True while the backing and programs do not agree on a name that leads to it on either side:
    /// without the inode in memory nobody would know what the name stands for. Also true where that
    /// cannot be told without waiting for a lock.
    fn is_awaited(&self, ino: InodeId, locked: &Locked<'_>) -> bool {
        let mut names = self.places.read().names(ino).to_vec();
        names.extend(locked.get(ino).iter().flat_map(|i| i.node.parents.iter().cloned()));
        let disputed = |i: &Inode, name: &Name| {
            let entry = i.node.dir.as_ref().and_then(|d| d.entries.get(name));
            // In a directory that programs removed everything is to go.
            i.node.is_dead() || entry.is_some_and(|e| e.lsn != Lsn::NONE)
        };
        names.iter().any(|k| match locked.get(k.parent) {
            _ if k.parent == PARKED => true,
            Some(i) => disputed(i, &k.name),
            None => match self.table.get(k.parent) {
                Some(c) => c.try_read().is_none_or(|i| disputed(&i, &k.name)),
                None => true,
            },
        })
    }

    /// Asks the backing about an inode where it is, and has the answer taken in if it holds: `take` is told how to ask for that.
    /// `None`: the backing does not hold it.
    pub(super) fn at_place<T>(
        &self,
        cell: &Arc<Cell>,
        ask: impl Fn(&BackingPath) -> io::Result<T>,
        take: impl Fn(&T, &dyn Fn() -> bool) -> bool,
    ) -> Result<Option<T>> {
        if cell.id == InodeId::ROOT {
            let v = ask(&BackingPath::root()).map_err(Error::Backing)?;
            take(&v, &|| true);
            return Ok(Some(v));
        }
        'again: loop {
            let (id, keys) = {
                let p = self.places.read();
                (p.id(cell.id), p.names(cell.id).to_vec())
            };
            let Some(id) = id else { return Ok(None) };
            for key in keys {
                let ticket = self.ticket(&key)?;
                let path = {
                    let p = self.places.read();
                    // What it waited for may have been the move of this very object.
                    if p.id(cell.id) != Some(id) || !p.has_name(cell.id, &key) {
                        continue 'again;
                    }
                    p.path_of(&key).map(BackingPath)
                };
                let Some(path) = path else { continue };
                // A name that something else took is not asked.
                let answer =
                    self.backing.stat(&path).and_then(|s| (s.id == id).then(|| ask(&path)).transpose());
                let holds = || self.moves.holds(ticket, &self.places.read(), &key);
                let held = if let Ok(Some(v)) = &answer { take(v, &holds) } else { holds() };
                match answer {
                    _ if !held => continue 'again,
                    Ok(Some(v)) => return Ok(Some(v)),
                    Ok(None) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::Backing(e)),
                }
            }
            let text = format!("the backing no longer has inode {} where it was", cell.id);
            return Err(Error::Backing(io::Error::new(io::ErrorKind::NotFound, text)));
        }
    }

    /// As `at_place`, for an answer that is kept nowhere.
    fn asked<T>(&self, cell: &Arc<Cell>, ask: impl Fn(&BackingPath) -> io::Result<T>) -> Result<Option<T>> {
        self.at_place(cell, ask, |_, holds| holds())
    }

    /// What the backing says of an inode now. `None`: it does not hold it.
    pub fn stat_in_backing(&self, cell: &Arc<Cell>) -> Result<Option<BackingStat>> {
        self.asked(cell, |path| self.backing.stat(path))
    }

    /// Extended attributes of an inode, read from the backing the first time.
    pub fn xattrs(&self, cell: &Arc<Cell>) -> Result<Vec<(Name, Vec<u8>)>> {
        if let Some(x) = &cell.read().node.xattrs {
            return Ok(x.clone());
        }
        self.may_ask_backing()?;
        let mut found = self.asked(cell, |path| self.backing.xattrs(path))?.unwrap_or_default();
        let mut i = cell.write();
        // A change of mode may not be in the backing yet.
        crate::namespace::acl::follow(&mut found, i.node.attr.mode);
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
        let target = self.asked(cell, |path| self.backing.readlink(path))?.ok_or(Error::NotFound)?;
        cell.write().node.target = Some(target.clone().into());
        Ok(target)
    }
}

fn in_use(c: &Arc<Cell>) -> bool {
    c.lookups.load(Ordering::Acquire) > 0 || c.opens.load(Ordering::Acquire) > 0
}

/// Whether an object under a name that an inode is not known by can be that inode, by more than its number: the store gives
/// the numbers of removed objects out again. A file may have names that are not known yet, or got one from
/// something else; else it was moved, and is as it was left.
fn may_be(n: &Node, there: &BackingStat) -> bool {
    let unknown_names = n.parents.len() < n.attr.nlink as usize || there.attr.nlink > n.attr.nlink;
    !n.is_dead()
        && n.attr.kind == there.attr.kind
        && (n.attr.kind != Kind::File || unknown_names || n.seen.is_none_or(|s| there.is_as_seen(s)))
}
