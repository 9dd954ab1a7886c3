//! Listing a directory. There are no handles: a name's cookie is a hash of it and the names are in the order of
//! these, so that a reader goes on from a cookie whatever changed meanwhile. The kernel keeps what it was told.

use super::{Fs, Located};
use crate::backing::{BackingEntry, BackingPath};
use crate::namespace::Entry;
use crate::types::{InodeId, Kind, Lsn, Name};
use crate::volume::{Cell, Error, Result, inside};
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, LazyLock};

/// Most names one readdirplus reply holds: 4 KiB pages of about 160 bytes each, 128 KiB at most.
const PLUS_ITEMS: usize = 256;

/// How often a directory is listed again that was moved while it was.
const TRIES: usize = 16;

/// Cookies of the first two.
const SELF: u64 = 1;
const PARENT: u64 = 2;

/// One name.
#[derive(Clone, Debug)]
pub struct DirItem {
    /// Where a reader goes on behind it.
    pub cookie: u64,
    pub name: Name,
    pub ino: InodeId,
    pub kind: Kind,
}

/// The names of a directory at one moment, by their cookies.
pub struct Listing {
    pub items: Vec<DirItem>,
}

/// A name in memory.
struct Known {
    name: Name,
    target: Option<InodeId>,
    /// The backing agrees on it.
    clean: bool,
}

struct KnownNames {
    names: Vec<Known>,
    /// These are all.
    complete: bool,
    version: u64,
}

impl Listing {
    /// What follows the item with this cookie; from the start for 0.
    pub fn after(&self, cookie: u64) -> &[DirItem] {
        &self.items[self.items.partition_point(|i| i.cookie <= cookie)..]
    }
}

/// A positive number for a name, of this process: nobody can make names whose numbers meet.
fn cookie(name: &[u8]) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    (KEY.hash_one(name) >> 2).max(PARENT + 1)
}

impl Fs {
    /// The names of a directory. `afresh`: the reader starts over; else it goes on in what was taken last, or in what
    /// is there now.
    pub fn listing(&self, ino: InodeId, afresh: bool) -> Result<Arc<Listing>> {
        if !afresh && let Some(l) = self.listings.get(ino) {
            return Ok(l);
        }
        let l = Arc::new(self.list(&self.cell(ino)?)?);
        self.listings.keep(ino, l.clone());
        Ok(l)
    }

    /// The kernel may keep listings itself, since a change of the backing behind us is cheap to find (`watch`).
    pub fn listings_may_be_kept(&self) -> bool {
        !self.volume.backing.remote()
    }

    /// Attributes of a listed name, with a kernel reference (as a lookup). `None`: it is gone.
    pub fn listed(&self, dir: &Arc<Cell>, item: &DirItem) -> Result<Option<Located>> {
        loop {
            let Some(cell) = self.volume.resolve(dir, &item.name)? else { return Ok(None) };
            if self.volume.hold(&cell) {
                return Ok(Some(self.located(&cell)));
            }
        }
    }

    /// Items from `from` on with their attributes, enough for one reply: (cookie, name, inode, whether
    /// the kernel was given a reference).
    #[allow(clippy::type_complexity)]
    pub fn listed_plus(&self, ino: InodeId, from: u64) -> Result<Vec<(u64, Name, Located, bool)>> {
        let l = self.listing(ino, from == 0)?;
        let dir = self.cell(ino)?;
        let mut out = Vec::new();
        for item in l.after(from).iter().take(PLUS_ITEMS) {
            let cookie = item.cookie;
            if &*item.name == b"." || &*item.name == b".." {
                let attr = crate::types::Attr { kind: Kind::Dir, ..dir.read().node.attr };
                out.push((cookie, item.name.clone(), Located { ino: item.ino, attr }, false));
                continue;
            }
            match self.listed(&dir, item) {
                Ok(Some(l)) => out.push((cookie, item.name.clone(), l, true)),
                Ok(None) => {}
                Err(e) => {
                    // Run again as a whole, or reported: the references taken so far go back.
                    out.iter().filter(|o| o.3).for_each(|o| self.forget(o.2.ino, 1));
                    return Err(e);
                }
            }
        }
        Ok(out)
    }

    fn list(&self, dir: &Arc<Cell>) -> Result<Listing> {
        let parent = {
            let i = dir.read();
            i.node.parents.first().map_or(InodeId::ROOT, |k| k.parent)
        };
        let before = self.known(dir)?;
        let mut names: BTreeMap<Name, (InodeId, Kind)> = BTreeMap::new();
        let (mut there, mut moved) = (Vec::new(), None);
        if !before.complete {
            self.watch(dir)?;
            moved = self.list_backing(dir.id, &mut |e| there.push(e))?;
        }
        let after = self.known(dir)?;
        // What the backing agreed on, and has no longer, something else removed there.
        let steady = moved.as_ref().filter(|_| before.version == after.version);
        // Removed here before or while the backing was asked: gone.
        let removed = |k: &&Known| k.target.is_none();
        let gone: HashSet<&Name> =
            before.names.iter().chain(&after.names).filter(removed).map(|k| &k.name).collect();
        {
            let places = self.volume.places.read();
            for e in there.into_iter().filter(|e| !gone.contains(&e.name)) {
                names.insert(e.name, (places.number(e.id), e.kind));
            }
        }
        for Known { name, target, clean } in &after.names {
            let Some(ino) = *target else { continue };
            if *clean && !names.contains_key(name) && steady.is_some_and(|moved| !moved.contains(name)) {
                continue;
            }
            match self.volume.cell(ino) {
                Some(c) => {
                    let kind = c.read().node.attr.kind;
                    names.insert(name.clone(), (ino, kind));
                }
                None if names.contains_key(name) => {}
                None => {
                    if let Some(c) = self.volume.resolve(dir, name)? {
                        let kind = c.read().node.attr.kind;
                        names.insert(name.clone(), (c.id, kind));
                    }
                }
            }
        }
        // Moved meanwhile, and so clean by now that memory does not know it.
        let known: HashSet<&Name> = after.names.iter().map(|k| &k.name).collect();
        for name in moved.iter().flatten().filter(|n| !known.contains(n) && !gone.contains(n)) {
            if let Some(c) = self.volume.resolve(dir, name)? {
                let kind = c.read().node.attr.kind;
                names.insert(name.clone(), (c.id, kind));
            }
        }
        let mut items = Vec::with_capacity(names.len() + 2);
        items.push(DirItem { cookie: SELF, name: b"."[..].into(), ino: dir.id, kind: Kind::Dir });
        items.push(DirItem { cookie: PARENT, name: b".."[..].into(), ino: parent, kind: Kind::Dir });
        let item = |(name, (ino, kind)): (Name, _)| DirItem { cookie: cookie(&name), name, ino, kind };
        items.extend(names.into_iter().map(item));
        items.sort_unstable_by_key(|i| i.cookie);
        Ok(Listing { items })
    }

    /// Names known in memory, and whether these are all.
    fn known(&self, dir: &Arc<Cell>) -> Result<KnownNames> {
        let i = dir.read();
        let d = i.node.dir.as_ref().ok_or(Error::NotDirectory)?;
        let known =
            |(n, e): (&Name, &Entry)| Known { name: n.clone(), target: e.target, clean: e.lsn == Lsn::NONE };
        Ok(KnownNames {
            names: d.entries.iter().map(known).collect(),
            // One listing is cheaper than to ask for each name whose inode left memory.
            complete: d.complete && d.kept == 0 || i.node.is_dead(),
            version: d.version,
        })
    }

    /// Names in the backing, but for those that are returned: the writeback moves them meanwhile. `None`: the backing does not
    /// hold the directory.
    pub(super) fn list_backing(
        &self,
        dir: InodeId,
        each: &mut dyn FnMut(BackingEntry),
    ) -> Result<Option<HashSet<Name>>> {
        self.volume.may_ask_backing()?;
        for _ in 0..TRIES {
            let ticket = self.volume.ticket(&inside(dir))?;
            let Some(path) = self.volume.places.read().path(dir) else { return Ok(None) };
            let mut there = Vec::new();
            let listed = self.volume.backing.list(&BackingPath(path), &mut |e| there.push(e));
            if let Some(moved) = self.volume.moves.below(ticket, &self.volume.places.read(), dir) {
                listed.map_err(Error::Backing)?;
                there.into_iter().filter(|e| !moved.contains(&e.name)).for_each(each);
                return Ok(Some(moved));
            }
        }
        let text = "a directory was moved whenever it was listed; try again";
        Err(Error::Backing(io::Error::new(io::ErrorKind::ResourceBusy, text)))
    }
}
