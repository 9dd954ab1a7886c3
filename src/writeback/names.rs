//! The second half of a batch: making a name of the backing agree with what programs see.

use super::Writeback;
use super::stage::Work;
use crate::backing::{BackingPath, parked_path};
use crate::format::mutation::{EntryKey, Mutation};
use crate::namespace::Place;
use crate::namespace::places::PARKED;
use crate::types::{BackingId, InodeId, Kind};
use std::io;
use std::sync::atomic::Ordering;

/// What stands under a name in the backing.
struct Occupant {
    id: BackingId,
    ino: InodeId,
    kind: Kind,
    /// Its names in the backing.
    links: u32,
}

impl Writeback {
    /// Makes the backing agree on one name. Nothing to do is success; not ready yet is success too,
    /// the name stays dirty then.
    pub(super) fn agree(&mut self, key: &EntryKey, w: &mut Work) -> io::Result<()> {
        if w.visiting.contains(key) {
            return Ok(());
        }
        w.visiting.push(key.clone());
        let r = self.agree_inner(key, w);
        w.visiting.pop();
        r
    }

    fn agree_inner(&mut self, key: &EntryKey, w: &mut Work) -> io::Result<()> {
        self.raise(key.parent, w, 0)?;
        let Some((target, was, lsn)) = self.volume.entry(key) else { return Ok(()) };
        let Some(path) = self.path(key) else { return Ok(()) };
        let there = self.occupant(&path)?;
        match target {
            None => {
                if let Some(o) = there
                    && !self.take_away(key, &path, &o, was, w)?
                {
                    return Ok(());
                }
                w.entries.push((key.clone(), lsn, None));
            }
            Some(ino) => {
                if !self.put(key, &path, ino, there, was, w)? {
                    return Ok(());
                }
                w.entries.push((key.clone(), lsn, Some(ino)));
            }
        }
        w.dirs.entry(key.parent).or_insert(None);
        Ok(())
    }

    fn path(&self, key: &EntryKey) -> Option<BackingPath> {
        let dir = self.volume.places.read().path(key.parent)?;
        Some(BackingPath(dir).join(&key.name))
    }

    fn occupant(&self, path: &BackingPath) -> io::Result<Option<Occupant>> {
        match self.volume.backing.stat(path) {
            Ok(s) => {
                let ino = self.volume.places.read().number(s.id);
                Ok(Some(Occupant { id: s.id, ino, kind: s.attr.kind, links: s.attr.nlink }))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Brings `ino` to a name. False: it is not ready.
    fn put(
        &mut self,
        key: &EntryKey,
        path: &BackingPath,
        ino: InodeId,
        there: Option<Occupant>,
        was: Option<InodeId>,
        w: &mut Work,
    ) -> io::Result<bool> {
        let staged = w.staged.get(&ino).map(|s| (s.name.clone(), s.stat.id, s.snap.attr.kind));
        // Staged and not yet installed anywhere.
        let staged = staged.filter(|s| self.volume.places.read().get(ino).is_none_or(|p| p.id != s.1));
        if let Some(o) = &there
            && o.ino == ino
            && staged.is_none()
        {
            if self.volume.places.read().get(ino).is_none() {
                self.volume.set_place(ino, Place { id: o.id, at: key.clone() });
                w.moved.push(ino);
            }
            return Ok(true);
        }
        let place = self.volume.places.read().get(ino).cloned();
        if staged.is_none() && place.is_none() {
            return Ok(false);
        }
        let mut replaced = None;
        if let Some(o) = there
            && o.ino != ino
        {
            let kind = match &staged {
                Some(s) => s.2,
                None => self.volume.snapshot(ino).map_or(Kind::File, |s| s.attr.kind),
            };
            if self.clear_way(key, path, &o, was, kind, w)? {
                replaced = Some(o);
            }
        }
        let id = staged.as_ref().map(|s| s.1).or(place.as_ref().map(|p| p.id));
        if let Some(id) = id {
            self.announce_one(ino, id, key, w)?;
        }
        let volume = self.volume.clone();
        let _tree = volume.tree.write();
        if let Some((name, id, _)) = staged {
            volume.backing.install(&name, path)?;
            volume.set_place(ino, Place { id, at: key.clone() });
        } else if let Some(p) = place {
            let from = volume.places.read().path(ino).map(BackingPath);
            let Some(from) = from else { return Ok(false) };
            let still = volume.entry(&p.at).is_some_and(|e| e.0 == Some(ino));
            if still && p.at.parent != PARKED {
                let name = self.name(ino);
                volume.backing.stage_link(&name, &from)?;
                volume.backing.install(&name, path)?;
            } else {
                volume.backing.rename(&from, path)?;
                w.dirs.entry(p.at.parent).or_insert(None);
                volume.set_place(ino, Place { id: p.id, at: key.clone() });
                w.moved.push(ino);
            }
        }
        // Only now is what stood there gone.
        if let Some(o) = replaced {
            self.left(&o, w);
        }
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Something else stands where an object must go. True: the newcomer's rename replaces it.
    fn clear_way(
        &mut self,
        key: &EntryKey,
        path: &BackingPath,
        o: &Occupant,
        was: Option<InodeId>,
        newcomer: Kind,
        w: &mut Work,
    ) -> io::Result<bool> {
        if was != Some(o.ino) {
            return self.set_aside(key, path).map(|()| false);
        }
        if self.move_on(key, path, o, w)? {
            return Ok(false);
        }
        if o.kind == Kind::Dir {
            return self.remove_dir(key, path, o, w).map(|()| false);
        }
        if newcomer == Kind::Dir {
            self.volume.backing.unlink(path)?;
            self.left(o, w);
            return Ok(false);
        }
        Ok(true)
    }

    /// Brings the directories above a name to where programs have them, from the top. Then none can be
    /// moved into itself: what lies above the target is in its final place.
    fn raise(&mut self, dir: InodeId, w: &mut Work, depth: u32) -> io::Result<()> {
        if dir == InodeId::ROOT || depth > 4096 {
            return Ok(());
        }
        let Some(key) = self.volume.name_of(dir) else { return Ok(()) };
        self.raise(key.parent, w, depth + 1)?;
        let there = self.volume.places.read().get(dir).is_some_and(|p| p.at == key);
        if there { Ok(()) } else { self.agree(&key, w) }
    }

    /// An occupant that lives on moves to where programs have it, or is parked. True: it is gone
    /// from here.
    fn move_on(
        &mut self,
        key: &EntryKey,
        path: &BackingPath,
        o: &Occupant,
        w: &mut Work,
    ) -> io::Result<bool> {
        let Some(snap) = self.volume.snapshot(o.ino) else { return Ok(false) };
        let here = |me: &Self| me.volume.places.read().get(o.ino).is_some_and(|p| p.at == *key);
        for other in snap.parents.iter().filter(|k| *k != key) {
            let Some((target, was, _)) = self.volume.entry(other) else { continue };
            if target == Some(o.ino) && was == Some(o.ino) {
                // A further hard link: the backing has it there already.
                if here(self) {
                    self.announce_one(o.ino, o.id, other, w)?;
                    let place = Place { id: o.id, at: other.clone() };
                    self.volume.set_place(o.ino, place);
                    w.moved.push(o.ino);
                }
                return Ok(false);
            }
        }
        if !here(self) {
            return Ok(false);
        }
        for other in snap.parents.iter().filter(|k| *k != key) {
            self.agree(other, w)?;
            if !here(self) {
                return Ok(true);
            }
        }
        let open = self.volume.cell(o.ino).is_some_and(|c| c.opens.load(Ordering::Acquire) > 0);
        if snap.dead && (!open || o.kind == Kind::Dir) {
            return Ok(false);
        }
        self.park(path, o, w)?;
        Ok(true)
    }

    /// Keeps an object that has no place yet: its name here is needed, or it is only open.
    fn park(&mut self, path: &BackingPath, o: &Occupant, w: &mut Work) -> io::Result<()> {
        let name = format!("{:x}", o.ino.0);
        let volume = self.volume.clone();
        let _tree = volume.tree.write();
        volume.backing.park(path, &name)?;
        let at = EntryKey { parent: PARKED, name: name.as_bytes().into() };
        volume.set_place(o.ino, Place { id: o.id, at });
        w.moved.push(o.ino);
        self.parked.insert(o.ino);
        Ok(())
    }

    /// Removes what programs removed. False: it must wait.
    fn take_away(
        &mut self,
        key: &EntryKey,
        path: &BackingPath,
        o: &Occupant,
        was: Option<InodeId>,
        w: &mut Work,
    ) -> io::Result<bool> {
        if was != Some(o.ino) {
            log::warn!(
                "{path} was made in the backing by something else (object {}, inode {}, not {was:?}): it is kept",
                o.id.0,
                o.ino
            );
            return Ok(true);
        }
        if self.move_on(key, path, o, w)? {
            return Ok(true);
        }
        if o.kind == Kind::Dir {
            self.remove_dir(key, path, o, w)?;
        } else {
            let volume = self.volume.clone();
            let _tree = volume.tree.write();
            volume.backing.unlink(path)?;
            self.left(o, w);
        }
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Removes a directory that programs removed, after the names that they removed from it.
    fn remove_dir(
        &mut self,
        key: &EntryKey,
        path: &BackingPath,
        o: &Occupant,
        w: &mut Work,
    ) -> io::Result<()> {
        for (name, target, _) in self.volume.dirty_entries(o.ino) {
            if target.is_none() {
                self.agree(&EntryKey { parent: o.ino, name }, w)?;
            }
        }
        let r = {
            let volume = self.volume.clone();
            let _tree = volume.tree.write();
            volume.backing.rmdir(path)
        };
        match r {
            Ok(()) => {
                w.dirs.remove(&o.ino);
                self.left(o, w);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => self.set_aside(key, path),
            Err(e) => Err(e),
        }
    }

    /// An object lost a name. With its last one it is gone from the backing.
    fn left(&self, o: &Occupant, w: &mut Work) {
        let last = o.kind == Kind::Dir || o.links <= 1;
        if last && self.volume.places.read().get(o.ino).is_some_and(|p| p.id == o.id) {
            w.gone.push(o.ino);
        }
    }

    /// Something else changed the backing: its version is kept under a name that says so.
    fn set_aside(&mut self, key: &EntryKey, path: &BackingPath) -> io::Result<()> {
        let stamp = self.volume.clock.wall_ns() / 1_000_000_000;
        let mut name = key.name.to_vec();
        name.truncate(200);
        name.extend_from_slice(format!(".conflict-{stamp}").as_bytes());
        let dir = self.volume.places.read().path(key.parent).ok_or(io::ErrorKind::NotFound)?;
        let to = BackingPath(dir).join(&name);
        let volume = self.volume.clone();
        let _tree = volume.tree.write();
        volume.backing.rename(path, &to)?;
        volume.look_again(key.parent);
        self.shared.conflicts.fetch_add(1, Ordering::Relaxed);
        log::warn!("{path} was changed in the backing by something else: its version is kept as {to}");
        Ok(())
    }

    /// Removes parked objects that nothing uses any more.
    pub(super) fn unpark(&mut self) {
        let idle: Vec<InodeId> = self
            .parked
            .iter()
            .copied()
            .filter(|&i| {
                let parked = self.volume.places.read().get(i).is_some_and(|p| p.at.parent == PARKED);
                !parked || !self.volume.is_open_or_named(i)
            })
            .collect();
        for ino in idle {
            self.parked.remove(&ino);
            let parked = self.volume.places.read().get(ino).is_some_and(|p| p.at.parent == PARKED);
            if !parked {
                continue;
            }
            let removed = {
                let volume = self.volume.clone();
                let _tree = volume.tree.write();
                volume.backing.unlink(&parked_path(&format!("{:x}", ino.0)))
            };
            match removed {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    self.failed("removing a parked file", &e);
                    self.parked.insert(ino);
                    continue;
                }
            }
            if let Err(e) = self.volume.record(&Mutation::Gone { ino }) {
                log::error!("logging a removed parked file failed: {e:?}");
            }
        }
    }
}
