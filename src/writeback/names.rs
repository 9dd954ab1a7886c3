//! Making a name of the backing agree with what programs see.
//!
//! Each step looks first at what stands in the backing, then changes one name there, then says so to
//! `Places`. Nothing that a program can still reach ever loses its last name: it is brought to its own
//! place first, or parked. What something else put in the way is kept under a conflict name.

use super::Writeback;
use super::stage::Work;
use crate::backing::{BackingPath, BackingStat, staged_path};
use crate::format::mutation::EntryKey;
use crate::namespace::places::PARKED;
use crate::types::{BackingId, InodeId, Kind, Lsn};
use std::io;
use std::sync::atomic::Ordering;

/// Names of a file that are looked at for one that it has no more use for.
const SOURCES: usize = 16;

/// What stands under a name in the backing.
pub(super) struct Occupant {
    ino: InodeId,
    id: BackingId,
    kind: Kind,
}

/// What is left of an occupant that had to give way.
#[derive(PartialEq, Eq)]
enum Way {
    /// Nothing stands there any more.
    Free,
    /// Something that may be replaced or removed.
    Over,
}

impl Writeback {
    /// Makes the backing agree on one name, as of the records that are durable. False: it is not
    /// ready, and stays dirty.
    pub(super) fn agree(&mut self, key: &EntryKey, w: &mut Work) -> io::Result<bool> {
        if w.visiting.contains(key) {
            return Ok(false);
        }
        if self.log_failed {
            return Err(io::Error::other("a sync of the log failed"));
        }
        w.visiting.push(key.clone());
        let r = self.agree_inner(key, w);
        w.visiting.pop();
        r
    }

    fn agree_inner(&mut self, key: &EntryKey, w: &mut Work) -> io::Result<bool> {
        if !self.raise(key.parent, w)? {
            return Ok(false);
        }
        let Some((target, lsn)) = self.volume.entry(key) else { return Ok(true) };
        if lsn > w.upto {
            return Ok(false);
        }
        let newer = |ino: &InodeId| w.staged.get(ino).is_some_and(|s| !s.installed && !s.dropped);
        if lsn == Lsn::NONE && !target.as_ref().is_some_and(newer) {
            return Ok(true);
        }
        let Some(path) = self.path(key) else { return Ok(false) };
        let there = self.look(key, &path)?;
        match (target, there) {
            (None, None) => {}
            (None, Some(o)) => self.clear(key, &path, &o, w)?,
            (Some(ino), there) => {
                if !self.bring(key, &path, ino, there, w)? {
                    return Ok(false);
                }
            }
        }
        w.agreed.insert(key.clone(), lsn);
        self.changed.insert(key.clone());
        w.dirs.insert(key.parent);
        Ok(true)
    }

    pub(super) fn path(&self, key: &EntryKey) -> Option<BackingPath> {
        self.volume.places.read().path_of(key).map(BackingPath)
    }

    /// Brings the directories above a name to where programs have them, from the top. Then none can be
    /// moved into itself: what lies above the target is in its final place. False: not ready.
    pub(super) fn raise(&mut self, dir: InodeId, w: &mut Work) -> io::Result<bool> {
        if dir == InodeId::ROOT || dir == PARKED {
            return Ok(true);
        }
        // A removed one is emptied where it is.
        let Some(key) = self.volume.name_of(dir) else { return Ok(true) };
        let there = |me: &Self| me.volume.places.read().under(&key) == Some(dir);
        if !self.raise(key.parent, w)? {
            return Ok(false);
        }
        Ok(there(self) || self.agree(&key, w)? && there(self))
    }

    /// What stands under a name; the places are set right by it. What is not ours is set aside.
    pub(super) fn look(&mut self, key: &EntryKey, path: &BackingPath) -> io::Result<Option<Occupant>> {
        let stat = match self.volume.backing.stat(path) {
            Ok(s) => Some(s),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let (known, ino) = {
            let places = self.volume.places.read();
            let known = places.under(key);
            let ours = |i: &InodeId| stat.is_some_and(|s| places.id(*i) == Some(s.id));
            let ino = known.filter(ours).or(stat.map(|s| places.number(s.id)).filter(ours));
            (known, ino)
        };
        let (Some(s), Some(ino)) = (stat, ino) else {
            if let Some(s) = stat {
                log::info!("{path}: object {} is not inode {known:?}, which belongs there", s.id.0);
                self.set_aside(key, path)?;
            }
            if known.is_some() {
                let volume = self.volume.clone();
                let _moving = volume.moves.begin(&[key]);
                volume.unplaced(key);
                self.changed.insert(key.clone());
            }
            return Ok(None);
        };
        if known != Some(ino) {
            log::warn!("{path}: inode {ino} stands in the backing under a name that nobody gave it there");
            self.volume.placed(ino, s.id, key);
            self.changed.insert(key.clone());
            // A directory has one name.
            let others = match s.attr.kind {
                Kind::Dir => self.volume.places.read().names(ino).to_vec(),
                _ => Vec::new(),
            };
            for other in others.into_iter().filter(|k| k != key) {
                self.volume.unplaced(&other);
                self.changed.insert(other);
            }
        }
        Ok(Some(Occupant { ino, id: s.id, kind: s.attr.kind }))
    }

    /// Brings `ino` to a name. False: it is not ready.
    pub(super) fn bring(
        &mut self,
        key: &EntryKey,
        path: &BackingPath,
        ino: InodeId,
        there: Option<Occupant>,
        w: &mut Work,
    ) -> io::Result<bool> {
        self.install_first(key, ino, w)?;
        let staged = w.staged.get(&ino).filter(|s| !s.installed && !s.dropped);
        let staged = staged.map(|s| (s.name.clone(), s.stat.id, s.snap.attr.kind));
        let known = self.volume.places.read().id(ino);
        let here = there.as_ref().is_some_and(|o| o.ino == ino);
        let Some(id) = staged.as_ref().map(|s| s.1).or(known) else { return Ok(false) };
        if here && staged.is_none() {
            return Ok(true);
        }
        if let Some(o) = there.filter(|_| !here) {
            let newcomer = match &staged {
                Some(s) => Some(s.2),
                None => self.volume.kind_of(ino),
            };
            let way = self.displace(key, path, &o, w)?;
            if way == Way::Over && newcomer == Some(Kind::Dir) {
                self.about_to_change(key.parent, w)?;
                self.unlink(key, path)?;
            }
            // Making way may have brought it here already.
            if staged.is_none() && self.volume.places.read().under(key) == Some(ino) {
                return Ok(true);
            }
        }
        if let Some((name, id, _)) = staged {
            self.announce_one(ino, id, key, w)?;
            self.about_to_change(key.parent, w)?;
            if here && w.staged.get(&ino).is_some_and(|s| s.keeps) {
                self.keep_theirs(key, path)?;
            }
            let volume = self.volume.clone();
            let _moving = volume.moves.begin(&[key]);
            volume.backing.install(&name, path)?;
            volume.leaves(key);
            volume.placed(ino, id, key);
            if let Some(s) = w.staged.get_mut(&ino) {
                s.installed = true;
            }
        } else if !self.fetch(key, path, ino, id, w)? {
            return Ok(false);
        }
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// A file that is replaced as a whole is replaced where it stands, before it gets other names: else
    /// these would be of different objects. If it no longer belongs there, its new content waits.
    fn install_first(&mut self, key: &EntryKey, ino: InodeId, w: &mut Work) -> io::Result<()> {
        let at = self.volume.places.read().get(ino).map(|p| p.at);
        let Some(at) = at.filter(|at| at != key) else { return Ok(()) };
        if !w.staged.get(&ino).is_some_and(|s| !s.installed && !s.dropped) {
            return Ok(());
        }
        if self.volume.entry(&at).is_some_and(|e| e.0 == Some(ino)) {
            self.agree(&at, w)?;
        }
        if let Some(s) = w.staged.get_mut(&ino).filter(|s| !s.keeps) {
            s.dropped = !s.installed;
        }
        Ok(())
    }

    /// Moves or links what the backing has under another name. False: it must stay there still.
    fn fetch(
        &mut self,
        key: &EntryKey,
        path: &BackingPath,
        ino: InodeId,
        id: BackingId,
        w: &mut Work,
    ) -> io::Result<bool> {
        let sources = self.standing(ino, SOURCES)?;
        let given_up = sources.iter().find(|s| self.is_given_up(&s.0, ino, w.upto));
        let volume = self.volume.clone();
        match (given_up, sources.first()) {
            (Some((from, p, _)), _) => {
                self.announce_one(ino, id, key, w)?;
                self.about_to_change(from.parent, w)?;
                self.about_to_change(key.parent, w)?;
                let _moving = volume.moves.begin(&[from, key]);
                volume.backing.rename(p, path)?;
                volume.leaves(from);
                volume.leaves(key);
                volume.moved(from, key);
                self.changed.insert(from.clone());
                w.dirs.insert(from.parent);
                Ok(true)
            }
            // Its old name is still a name of it: a hard link, or removed only since.
            (None, Some((_, p, stat))) if stat.attr.kind != Kind::Dir => {
                self.announce_one(ino, id, key, w)?;
                self.about_to_change(key.parent, w)?;
                let name = self.name(ino);
                let _moving = volume.moves.begin(&[key]);
                volume.backing.stage_link(&name, p)?;
                if let Err(e) = volume.backing.install(&name, path) {
                    if let Err(e) = volume.backing.unlink(&staged_path(&name)) {
                        log::debug!("removing the unused link {name}: {e}; the next mount does it");
                    }
                    return Err(e);
                }
                volume.leaves(key);
                volume.placed(ino, id, key);
                Ok(true)
            }
            (None, Some(_)) => Ok(false),
            (None, None) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the backing no longer has inode {ino}, which belongs at {path}"),
            )),
        }
    }

    /// Names under which an inode really stands in the backing, up to `enough` of them; those where it does
    /// not are struck out. After a death the log may still name some that the last batch took away.
    pub(super) fn standing(
        &mut self,
        ino: InodeId,
        enough: usize,
    ) -> io::Result<Vec<(EntryKey, BackingPath, BackingStat)>> {
        let (mut out, mut at) = (Vec::new(), 0);
        while out.len() < enough {
            // What was struck out is no longer among them.
            let (id, key) = {
                let places = self.volume.places.read();
                (places.id(ino), places.names(ino).get(at).cloned())
            };
            let Some(key) = key else { break };
            let stat = match self.path(&key) {
                Some(p) => match self.volume.backing.stat(&p) {
                    Ok(s) => Some((s, p)),
                    Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                        None
                    }
                    Err(e) => return Err(e),
                },
                None => None,
            };
            match stat {
                Some((s, p)) if Some(s.id) == id => {
                    out.push((key, p, s));
                    at += 1;
                }
                _ => {
                    let volume = self.volume.clone();
                    let _moving = volume.moves.begin(&[&key]);
                    volume.unplaced(&key);
                    self.changed.insert(key);
                }
            }
        }
        Ok(out)
    }

    fn stands_once(&mut self, ino: InodeId) -> io::Result<bool> {
        Ok(self.standing(ino, 2)?.len() == 1)
    }

    /// True when `ino` has no use for this name of the backing any more.
    fn is_given_up(&self, key: &EntryKey, ino: InodeId, upto: Lsn) -> bool {
        if key.parent == PARKED {
            return true;
        }
        match self.volume.entry(key) {
            Some((target, lsn)) => target != Some(ino) && lsn <= upto,
            None => self.volume.is_removed(key.parent),
        }
    }

    /// Something else stands where an object must go, or something must go.
    fn displace(
        &mut self,
        key: &EntryKey,
        path: &BackingPath,
        o: &Occupant,
        w: &mut Work,
    ) -> io::Result<Way> {
        let here = |me: &Self| me.volume.places.read().under(key) == Some(o.ino);
        if self.volume.is_open_or_named(o.ino) && self.stands_once(o.ino)? {
            for other in self.volume.names_of(o.ino).iter().filter(|k| *k != key) {
                self.agree(other, w)?;
                if !here(self) {
                    return Ok(Way::Free);
                }
            }
            if self.stands_once(o.ino)? && (o.kind != Kind::Dir || self.volume.is_named(o.ino)) {
                self.park(key, path, o, w)?;
                return Ok(Way::Free);
            }
        }
        if o.kind != Kind::Dir {
            self.announce_others_now(key)?;
            self.keep_removed(o.ino, path)?;
            return Ok(Way::Over);
        }
        self.remove_dir(key, path, o, w)?;
        Ok(Way::Free)
    }

    fn announce_others_now(&mut self, key: &EntryKey) -> io::Result<()> {
        if self.announce_others(key)? {
            self.sync_said()?;
        }
        Ok(())
    }

    /// Removes what programs removed.
    fn clear(&mut self, key: &EntryKey, path: &BackingPath, o: &Occupant, w: &mut Work) -> io::Result<()> {
        if self.displace(key, path, o, w)? == Way::Over {
            self.about_to_change(key.parent, w)?;
            self.unlink(key, path)?;
        }
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn unlink(&mut self, key: &EntryKey, path: &BackingPath) -> io::Result<()> {
        let volume = self.volume.clone();
        let _moving = volume.moves.begin(&[key]);
        volume.backing.unlink(path)?;
        volume.leaves(key);
        volume.unplaced(key);
        self.changed.insert(key.clone());
        Ok(())
    }

    /// Keeps an object that has no place yet: programs still need it.
    fn park(&mut self, key: &EntryKey, path: &BackingPath, o: &Occupant, w: &mut Work) -> io::Result<()> {
        let name = format!("{:x}", o.ino.0);
        let at = EntryKey { parent: PARKED, name: name.as_bytes().into() };
        if !self.volume.is_named(o.ino) {
            self.keep_removed(o.ino, path)?;
        }
        self.announce_one(o.ino, o.id, &at, w)?;
        self.about_to_change(key.parent, w)?;
        let volume = self.volume.clone();
        let _moving = volume.moves.begin(&[key, &at]);
        volume.backing.park(path, &name)?;
        volume.leaves(key);
        volume.moved(key, &at);
        self.changed.extend([key.clone(), at]);
        Ok(())
    }

    /// Removes a directory that programs removed, after all that is known to be left in it.
    fn remove_dir(
        &mut self,
        key: &EntryKey,
        path: &BackingPath,
        o: &Occupant,
        w: &mut Work,
    ) -> io::Result<()> {
        self.keep_removed(o.ino, path)?;
        let inside: Vec<EntryKey> = {
            let places = self.volume.places.read();
            places.below(o.ino).map(|(n, _)| EntryKey { parent: o.ino, name: n.clone() }).collect()
        };
        for child in inside {
            let Some(path) = self.path(&child) else { continue };
            if let Some(o) = self.look(&child, &path)? {
                self.clear(&child, &path, &o, w)?;
            }
        }
        self.about_to_change(key.parent, w)?;
        let r = {
            let volume = self.volume.clone();
            let _moving = volume.moves.begin(&[key]);
            volume.backing.rmdir(path).map(|()| {
                volume.leaves(key);
                volume.unplaced(key);
            })
        };
        match r {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => self.set_aside(key, path)?,
            Err(e) => return Err(e),
        }
        self.changed.insert(key.clone());
        Ok(())
    }

    /// Parked objects that nothing needs there any more. `closing`: programs are gone, and with them the
    /// kernel's references.
    pub(super) fn idle_parked(&self, closing: bool) -> Vec<EntryKey> {
        let parked: Vec<(EntryKey, InodeId)> = {
            let places = self.volume.places.read();
            let key = |n: &crate::types::Name| EntryKey { parent: PARKED, name: n.clone() };
            places.below(PARKED).map(|(n, ino)| (key(n), ino)).collect()
        };
        let idle = |p: &(EntryKey, InodeId)| {
            let v = &self.volume;
            if !v.is_open_or_named(p.1) || v.places.read().names(p.1).len() > 1 {
                return true;
            }
            // Its other names were never looked at, but the backing counts them. Without this one we could
            // not reach it: only what is not in use is left to them.
            v.is_named(p.1)
                && self.is_settled(p.1)
                && (closing || v.is_idle(p.1))
                && self.path(&p.0).is_some_and(|path| v.backing.stat(&path).is_ok_and(|s| s.attr.nlink > 1))
                && v.kind_of(p.1) != Some(Kind::Dir)
        };
        parked.into_iter().filter(idle).map(|p| p.0).collect()
    }

    /// Removes parked objects that nothing needs there any more.
    pub(super) fn unpark(&mut self, w: &mut Work) {
        let closing = self.shared.closing.load(Ordering::Acquire);
        for key in self.idle_parked(closing) {
            if self.log_failed {
                return;
            }
            if let Err(e) = self.unpark_one(&key, w) {
                self.failed("removing a parked object", &e);
            }
        }
    }

    fn unpark_one(&mut self, key: &EntryKey, w: &mut Work) -> io::Result<()> {
        let Some(path) = self.path(key) else { return Ok(()) };
        let Some(o) = self.look(key, &path)? else { return Ok(()) };
        if self.volume.is_open_or_named(o.ino)
            && self.stands_once(o.ino)?
            && self.volume.backing.stat(&path)?.attr.nlink < 2
        {
            return Ok(());
        }
        self.announce_others_now(key)?;
        match o.kind {
            // With what is left in it.
            Kind::Dir => self.remove_dir(key, &path, &o, w)?,
            _ => {
                self.keep_removed(o.ino, &path)?;
                self.unlink(key, &path)?;
            }
        }
        if let Some(cell) = self.volume.cell(o.ino) {
            self.volume.evict(&cell);
        }
        Ok(())
    }

    /// True when the backing agrees on all names by which programs reach an inode.
    fn is_settled(&self, ino: InodeId) -> bool {
        let clean = |k: &EntryKey| self.volume.entry(k).is_none_or(|e| e.1 == Lsn::NONE);
        self.volume.names_of(ino).iter().all(clean)
    }
}
