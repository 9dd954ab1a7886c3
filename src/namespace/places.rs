//! What the backing holds, as far as it is known: every known object of it with its names there. A
//! tree of its own, since programs may have moved what the writeback has not moved yet. Only the
//! writeback changes it, at the moment it changes the backing.
//!
//! Invariants: a name holds at most one object; an object number belongs to at most one inode; a
//! directory has one name.

use super::names::Names;
use crate::format::mutation::EntryKey;
use crate::types::{BackingId, InodeId, Name};
use smallvec::SmallVec;
use std::collections::HashMap;

/// A place in the backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: BackingId,
    pub at: EntryKey,
}

struct Object {
    id: BackingId,
    names: Names,
}

/// What stood under a name before the writeback changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    pub ino: InodeId,
    pub id: BackingId,
    /// Where the name was then.
    pub path: Vec<u8>,
}

/// The tree of places, and which inode an object of the backing is.
pub struct Places {
    objects: HashMap<InodeId, Object>,
    /// What is known below each directory.
    below: HashMap<InodeId, HashMap<Name, InodeId>>,
    /// Objects whose inode number is not their own: those made here, and the root.
    numbers: HashMap<BackingId, InodeId>,
    /// The same the other way round.
    renumbered: HashMap<InodeId, BackingId>,
    /// Of each name that was changed, until the log says what the backing has there for good.
    former: HashMap<EntryKey, Former>,
    root: BackingId,
}

/// Parked objects hang below this; no inode has the number.
pub const PARKED: InodeId = InodeId(u64::MAX);

impl Places {
    /// The tree with nothing but the root.
    pub fn new(root: BackingId) -> Places {
        let numbers = HashMap::from([(root, InodeId::ROOT)]);
        Places {
            objects: HashMap::new(),
            below: HashMap::new(),
            numbers,
            renumbered: HashMap::new(),
            former: HashMap::new(),
            root,
        }
    }

    /// Number of the inode that is this object.
    pub fn number(&self, id: BackingId) -> InodeId {
        self.numbers.get(&id).copied().unwrap_or(InodeId(id.0))
    }

    /// The object that an inode is; `None`: not in the backing, as far as known.
    pub fn id(&self, ino: InodeId) -> Option<BackingId> {
        if ino == InodeId::ROOT { Some(self.root) } else { self.objects.get(&ino).map(|o| o.id) }
    }

    /// The object an inode is, and the first of its known names.
    pub fn get(&self, ino: InodeId) -> Option<Place> {
        let o = self.objects.get(&ino)?;
        o.names.first().map(|at| Place { id: o.id, at: at.clone() })
    }

    /// From now on these objects have these numbers, and no other number belongs to an inode.
    pub fn renumber(&mut self, now: &[(InodeId, BackingId)]) {
        self.numbers = HashMap::from([(self.root, InodeId::ROOT)]);
        self.renumbered.clear();
        for (ino, id) in now {
            if let Some(o) = self.objects.get_mut(ino) {
                o.id = *id;
                self.renumber_one(*id, *ino);
            }
        }
    }

    fn renumber_one(&mut self, id: BackingId, ino: InodeId) {
        if id.0 != ino.0 {
            self.numbers.insert(id, ino);
            self.renumbered.insert(ino, id);
        } else {
            self.numbers.remove(&id);
            self.renumbered.remove(&ino);
        }
    }

    /// Whether an inode is known to be another object than this one. The store gives the numbers of removed objects out
    /// again, also to what others make there: then `number` says nothing.
    pub fn is_another(&self, ino: InodeId, id: BackingId) -> bool {
        self.objects.get(&ino).is_some_and(|o| o.id != id)
            || self.renumbered.get(&ino).is_some_and(|other| *other != id)
    }

    /// The known names of an inode in the backing.
    pub fn names(&self, ino: InodeId) -> &[EntryKey] {
        self.objects.get(&ino).map_or(&[], |o| &o.names)
    }

    /// Whether an inode is known to stand under this name, among others.
    pub fn has_name(&self, ino: InodeId, key: &EntryKey) -> bool {
        self.objects.get(&ino).is_some_and(|o| o.names.contains(key))
    }

    /// All known objects with their names.
    pub fn objects(&self) -> impl Iterator<Item = (InodeId, &[EntryKey])> {
        self.objects.iter().map(|(&ino, o)| (ino, &o.names[..]))
    }

    /// What is known to stand under a name in the backing.
    pub fn under(&self, key: &EntryKey) -> Option<InodeId> {
        self.below.get(&key.parent)?.get(&key.name).copied()
    }

    /// What is known to be in a directory of the backing.
    pub fn below(&self, dir: InodeId) -> impl Iterator<Item = (&Name, InodeId)> {
        self.below.get(&dir).into_iter().flatten().map(|(n, &i)| (n, i))
    }

    /// True when the backing holds it (the root has no name but is there).
    pub fn holds(&self, ino: InodeId) -> bool {
        ino == InodeId::ROOT || self.objects.get(&ino).is_some_and(|o| !o.names.is_empty())
    }

    /// The object `id` is `ino` and stands under `key`, beside its other names. What was known to
    /// stand there is there no longer. An inode that becomes another object has no other names.
    pub fn set(&mut self, ino: InodeId, id: BackingId, key: &EntryKey) {
        if ino == InodeId::ROOT || id == self.root {
            return;
        }
        self.claim(ino, id);
        if self.under(key) != Some(ino) {
            self.unset(key);
            self.below.entry(key.parent).or_default().insert(key.name.clone(), ino);
        }
        if let Some(o) = self.objects.get_mut(&ino) {
            o.names.add(key);
        }
    }

    /// From now on the object `id` is `ino`. An inode that was another object has no names any more.
    pub fn claim(&mut self, ino: InodeId, id: BackingId) {
        if ino == InodeId::ROOT || id == self.root {
            return;
        }
        // The store gives the number of a removed object out again.
        let owner = self.number(id);
        if owner != ino && self.objects.get(&owner).is_some_and(|o| o.id == id) {
            self.drop_object(owner);
        }
        if self.objects.get(&ino).is_some_and(|o| o.id != id) {
            self.drop_object(ino);
        }
        self.renumber_one(id, ino);
        self.objects.entry(ino).or_insert_with(|| Object { id, names: Names::default() });
    }

    /// Nothing stands under `key` any more. Returns what stood there.
    pub fn unset(&mut self, key: &EntryKey) -> Option<InodeId> {
        let names = self.below.get_mut(&key.parent)?;
        let ino = names.remove(&key.name)?;
        if names.is_empty() {
            self.below.remove(&key.parent);
        }
        if let Some(o) = self.objects.get_mut(&ino) {
            o.names.remove(key);
        }
        Some(ino)
    }

    /// What stands under a name leaves it. The backing may still go back on that, so it is kept in mind until `said`.
    pub fn leaves(&mut self, key: &EntryKey) {
        if key.parent == PARKED || self.former.contains_key(key) {
            return;
        }
        if let Some(ino) = self.under(key)
            && let Some(id) = self.id(ino)
            && let Some(path) = self.path_of(key)
        {
            self.former.insert(key.clone(), Former { ino, id, path });
        }
    }

    /// The log says what stands under a name now.
    pub fn said(&mut self, key: &EntryKey) {
        self.former.remove(key);
    }

    /// What stood under a name that was changed and of which the log does not say so yet.
    pub fn former(&self, key: &EntryKey) -> Option<&Former> {
        self.former.get(key)
    }

    /// What may stand where, oldest first, though it is not known to: to be asked for after a death. Where else each of
    /// them stands comes after it, and so counts first.
    pub fn doubtful(&self) -> Vec<(InodeId, Place)> {
        let mut out = Vec::new();
        for (key, f) in &self.former {
            let owner = self.number(f.id);
            if owner != f.ino && self.id(owner) == Some(f.id) {
                continue;
            }
            out.push((f.ino, Place { id: f.id, at: key.clone() }));
        }
        let now = self.former.iter().flat_map(|(key, f)| [Some(f.ino), self.under(key)]).flatten();
        let now: std::collections::BTreeSet<InodeId> = now.collect();
        for ino in now {
            let Some(id) = self.id(ino) else { continue };
            out.extend(self.names(ino).iter().map(|at| (ino, Place { id, at: at.clone() })));
        }
        out
    }

    /// The object is gone from the backing, with all its names.
    pub fn drop_object(&mut self, ino: InodeId) {
        let Some(names) = self.objects.get(&ino).map(|o| o.names.to_vec()) else { return };
        for key in &names {
            self.unset(key);
        }
        if let Some(o) = self.objects.remove(&ino)
            && self.numbers.get(&o.id) == Some(&ino)
        {
            self.numbers.remove(&o.id);
            self.renumbered.remove(&ino);
        }
    }

    /// Drops what no name leads to.
    pub fn drop_nameless(&mut self) {
        let idle: Vec<InodeId> =
            self.objects.iter().filter(|(_, o)| o.names.is_empty()).map(|(&i, _)| i).collect();
        idle.into_iter().for_each(|i| self.drop_object(i));
    }

    /// Drops a clean inode's names from memory, unless others hang below it. Its number is kept.
    pub fn forget(&mut self, ino: InodeId) -> bool {
        if self.below.contains_key(&ino) {
            return false;
        }
        for key in self.names(ino).to_vec() {
            self.unset(&key);
        }
        self.objects.remove(&ino);
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
            let key = self.objects.get(&at)?.names.first()?;
            names.push(&key.name);
            at = key.parent;
            if names.len() > 4096 {
                return None;
            }
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Path of a name in the backing. `None` if its directory is not there.
    pub fn path_of(&self, key: &EntryKey) -> Option<Vec<u8>> {
        let mut path = self.path(key.parent)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&key.name);
        Some(path)
    }

    /// The names on the path of `key`, its own first. `None`: its directory is not there.
    pub fn way<'a>(&'a self, key: &'a EntryKey) -> Option<SmallVec<[&'a EntryKey; 8]>> {
        let mut way = SmallVec::from_slice(&[key]);
        let mut at = key;
        while at.parent != InodeId::ROOT && at.parent != PARKED {
            at = self.objects.get(&at.parent)?.names.first()?;
            way.push(at);
            // Deeper than any tree is: places that lead in a circle.
            if way.len() > 4096 {
                return None;
            }
        }
        Some(way)
    }

    /// All numbers that differ from the object's own.
    pub fn numbers(&self) -> impl Iterator<Item = (BackingId, InodeId)> + '_ {
        self.numbers.iter().map(|(&a, &b)| (a, b)).filter(|p| p.1 != InodeId::ROOT)
    }

    /// Takes over numbers kept from an earlier mount.
    pub fn load_numbers(&mut self, numbers: impl IntoIterator<Item = (BackingId, InodeId)>) {
        for (id, ino) in numbers {
            if id != self.root {
                self.renumber_one(id, ino);
            }
        }
    }

    /// Objects in memory.
    pub fn len(&self) -> usize {
        self.objects.len()
    }
    /// True when only the root is known.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parent: u64, name: &str) -> EntryKey {
        EntryKey { parent: InodeId(parent), name: name.as_bytes().into() }
    }

    #[test]
    fn names_come_and_go_with_their_objects() {
        let mut p = Places::new(BackingId(2));
        assert_eq!(p.number(BackingId(2)), InodeId::ROOT);
        p.set(InodeId(10), BackingId(10), &key(1, "d"));
        p.set(InodeId(900), BackingId(11), &key(10, "a"));
        p.set(InodeId(900), BackingId(11), &key(1, "b"));
        assert_eq!(p.number(BackingId(11)), InodeId(900));
        assert_eq!(p.path(InodeId(900)).as_deref(), Some(&b"d/a"[..]));
        assert_eq!(p.path_of(&key(10, "zz")).as_deref(), Some(&b"d/zz"[..]));
        assert!(!p.forget(InodeId(10)), "something hangs below it");
        // Another object takes a name, then the number of one that is gone.
        p.set(InodeId(901), BackingId(12), &key(10, "a"));
        assert_eq!(p.names(InodeId(900)), [key(1, "b")]);
        p.set(InodeId(902), BackingId(11), &key(1, "c"));
        assert_eq!(p.number(BackingId(11)), InodeId(902));
        assert!(!p.holds(InodeId(900)));
        assert_eq!(p.under(&key(1, "b")), None);
        // An inode that becomes another object.
        p.set(InodeId(901), BackingId(13), &key(10, "a"));
        assert_eq!(p.id(InodeId(901)), Some(BackingId(13)));
        assert_eq!(p.number(BackingId(12)), InodeId(12));
        assert_eq!(p.unset(&key(10, "a")), Some(InodeId(901)));
        p.drop_nameless();
        assert_eq!(p.id(InodeId(901)), None);
        // The number of an object that was replaced goes to a stranger.
        p.set(InodeId(20), BackingId(20), &key(1, "f"));
        p.set(InodeId(20), BackingId(21), &key(1, "f"));
        assert!(p.is_another(p.number(BackingId(20)), BackingId(20)));
        assert!(p.forget(InodeId(20)));
        assert!(p.is_another(p.number(BackingId(20)), BackingId(20)), "its new number is kept");
        assert!(!p.is_another(p.number(BackingId(21)), BackingId(21)));
        assert!(p.forget(InodeId(10)));
    }
}
