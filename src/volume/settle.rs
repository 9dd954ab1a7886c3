//! Where are the things that the writeback was moving when the gateway died? Every move was announced in
//! the log before it was made, and every batch of moves was closed by what came of it. So only what was
//! announced and not closed is in doubt, and the backing itself is asked: an object is known by its
//! number wherever it stands.

use super::Volume;
use crate::backing::{BackingPath, BackingStat, parked_path};
use crate::format::mutation::EntryKey;
use crate::namespace::Place;
use crate::namespace::places::PARKED;
use crate::types::{BackingId, InodeId, Kind};
use std::collections::HashMap;
use std::io;

/// An inode in doubt: which objects it may be, and where they may stand.
#[derive(Default)]
struct Doubt {
    ids: Vec<BackingId>,
    spots: Vec<EntryKey>,
    found: Vec<(EntryKey, BackingId)>,
    is_dir: bool,
}

impl Doubt {
    /// Nothing is left to be looked at: a directory has one name.
    fn is_done(&self) -> bool {
        self.spots.is_empty() || self.is_dir && !self.found.is_empty()
    }
}

impl Volume {
    /// Brings the places in line with the backing.
    /// Errors: the backing cannot be asked.
    pub(super) fn settle(&self) -> io::Result<()> {
        let intents = self.intents.lock().clone();
        let mut doubts = self.doubts(&intents);
        self.look_parked(&mut doubts)?;
        // From the top: a name can be looked at once it is known where its directory is.
        loop {
            let ready: Vec<InodeId> = doubts
                .iter()
                .filter(|(_, d)| d.is_done() || d.spots.iter().any(|k| self.is_reachable(k, &doubts)))
                .map(|(&i, _)| i)
                .collect();
            if ready.is_empty() {
                break;
            }
            for ino in ready {
                self.look(ino, &mut doubts)?;
            }
        }
        // Whoever was found nowhere is gone, or lies in a directory that is.
        for (ino, d) in doubts {
            self.conclude(ino, d);
        }
        self.places.write().drop_nameless();
        Ok(())
    }

    fn doubts(&self, intents: &[(InodeId, Place)]) -> HashMap<InodeId, Doubt> {
        let places = self.places.read();
        let mut owner: HashMap<BackingId, InodeId> = HashMap::new();
        let mut doubts: HashMap<InodeId, Doubt> = HashMap::new();
        // The newest first: a number may have been given out again.
        for (ino, place) in intents.iter().rev() {
            if *owner.entry(place.id).or_insert(*ino) != *ino {
                continue;
            }
            let d = doubts.entry(*ino).or_default();
            if !d.ids.contains(&place.id) {
                d.ids.push(place.id);
            }
            if !d.spots.contains(&place.at) {
                d.spots.push(place.at.clone());
            }
        }
        for (ino, d) in &mut doubts {
            if let Some(id) = places.id(*ino).filter(|id| owner.get(id).is_none_or(|o| o == ino))
                && !d.ids.contains(&id)
            {
                d.ids.push(id);
            }
            for key in places.names(*ino) {
                if !d.spots.contains(key) {
                    d.spots.push(key.clone());
                }
            }
            let kind = self.table.get(*ino).map(|c| c.read().node.attr.kind);
            d.is_dir = kind == Some(Kind::Dir) || places.below(*ino).next().is_some();
        }
        doubts
    }

    /// What is parked, whoever it is.
    fn look_parked(&self, doubts: &mut HashMap<InodeId, Doubt>) -> io::Result<()> {
        for name in self.backing.parked()? {
            let Some(ino) = u64::from_str_radix(&name, 16).ok().map(InodeId) else { continue };
            let Some(s) = self.stat_if_there(&parked_path(&name))? else { continue };
            let at = EntryKey { parent: PARKED, name: name.as_bytes().into() };
            match doubts.get_mut(&ino) {
                Some(d) if d.ids.contains(&s.id) => {
                    d.spots.retain(|k| k.parent != PARKED);
                    d.found.push((at, s.id));
                }
                // Not known any more: it is removed by the next drain.
                _ => self.places.write().set(ino, s.id, &at),
            }
        }
        Ok(())
    }

    fn stat_if_there(&self, path: &BackingPath) -> io::Result<Option<BackingStat>> {
        match self.backing.stat(path) {
            Ok(s) => Ok(Some(s)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// True when everything above a name is where it is known to be.
    fn is_reachable(&self, key: &EntryKey, doubts: &HashMap<InodeId, Doubt>) -> bool {
        let places = self.places.read();
        let mut at = key.parent;
        for _ in 0..4096 {
            if at == InodeId::ROOT || at == PARKED {
                return true;
            }
            if doubts.contains_key(&at) {
                return false;
            }
            match places.names(at).first() {
                Some(k) => at = k.parent,
                None => return false,
            }
        }
        false
    }

    /// Looks at those spots of an inode that can be looked at now. One without further spots is settled.
    fn look(&self, ino: InodeId, doubts: &mut HashMap<InodeId, Doubt>) -> io::Result<()> {
        let Some(mut d) = doubts.remove(&ino) else { return Ok(()) };
        let spots = std::mem::take(&mut d.spots);
        let done = d.is_dir && !d.found.is_empty();
        for key in spots.into_iter().filter(|_| !done) {
            if !self.is_reachable(&key, doubts) || key.parent == ino {
                d.spots.push(key);
                continue;
            }
            // Where a directory stood that was removed, another may stand now.
            let path = match self.stands(key.parent)? {
                true => self.places.read().path_of(&key),
                false => None,
            };
            let seen = match path {
                Some(p) => self.stat_if_there(&BackingPath(p))?,
                None => None,
            };
            if let Some(s) = seen.filter(|s| d.ids.contains(&s.id)) {
                d.found.push((key, s.id));
            }
        }
        d.spots.retain(|k| k.parent != ino);
        if !d.is_done() {
            doubts.insert(ino, d);
        } else {
            self.conclude(ino, d);
        }
        Ok(())
    }

    /// Whether a directory is where it is known to be.
    fn stands(&self, dir: InodeId) -> io::Result<bool> {
        if dir == InodeId::ROOT || dir == PARKED {
            return Ok(true);
        }
        let (id, path) = {
            let places = self.places.read();
            (places.id(dir), places.path(dir))
        };
        let Some(path) = path else { return Ok(false) };
        Ok(self.stat_if_there(&BackingPath(path))?.is_some_and(|s| Some(s.id) == id))
    }

    /// The inode stands where it was found and nowhere else.
    fn conclude(&self, ino: InodeId, d: Doubt) {
        log::debug!(
            "settled: inode {ino} may be {:?}, found {:?}, not looked at {:?}",
            d.ids,
            d.found,
            d.spots
        );
        let mut places = self.places.write();
        for key in places.names(ino).to_vec() {
            if !d.found.iter().any(|(k, _)| *k == key) {
                places.unset(&key);
            }
        }
        // The newest object that is there: one that replaces another has its name.
        let newest = d.ids.iter().find(|id| d.found.iter().any(|(_, f)| f == *id));
        let Some(&id) = newest else { return };
        for (key, _) in d.found.iter().filter(|(_, f)| *f == id) {
            places.set(ino, id, key);
        }
    }
}
