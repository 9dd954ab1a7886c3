//! Listing a directory. The names are taken once, at the first read of a handle, so that cookies
//! survive whatever changes meanwhile.

use super::{Fs, Located};
use crate::backing::{BackingEntry, BackingPath};
use crate::types::{InodeId, Kind, Name};
use crate::volume::{Cell, Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Most names one readdirplus reply holds: 4 KiB pages of about 160 bytes each, 128 KiB at most.
const PLUS_ITEMS: usize = 256;

/// One name.
#[derive(Clone, Debug)]
pub struct DirItem {
    pub name: Name,
    pub ino: InodeId,
    pub kind: Kind,
}

/// The names of a directory at one moment; an item's cookie is its index + 1.
pub struct Listing {
    pub items: Vec<DirItem>,
}

impl Fs {
    /// The listing of a directory handle. `afresh`: the reader starts over.
    pub fn listing(&self, fh: u64, afresh: bool) -> Result<Arc<Listing>> {
        let h = self.handles.get(fh)?;
        let mut held = h.listing.lock();
        if let (Some(l), false) = (&*held, afresh) {
            return Ok(l.clone());
        }
        let l = Arc::new(self.list(&h.cell)?);
        *held = Some(l.clone());
        Ok(l)
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
    pub fn listed_plus(&self, fh: u64, from: usize) -> Result<Vec<(u64, Name, Located, bool)>> {
        let l = self.listing(fh, from == 0)?;
        let dir = self.handles.get(fh)?.cell.clone();
        let mut out = Vec::new();
        for (i, item) in l.items.iter().enumerate().skip(from).take(PLUS_ITEMS) {
            let cookie = i as u64 + 1;
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
        let (before, complete) = self.known(dir)?;
        let mut names: BTreeMap<Name, (InodeId, Kind)> = BTreeMap::new();
        let mut there = Vec::new();
        if !complete {
            self.list_backing(dir.id, &mut |e| there.push(e))?;
        }
        let (after, _) = self.known(dir)?;
        // Removed here before or while the backing was asked: gone.
        let gone: HashSet<&Name> =
            before.iter().chain(&after).filter(|(_, t)| t.is_none()).map(|(n, _)| n).collect();
        {
            let places = self.volume.places.read();
            for e in there.into_iter().filter(|e| !gone.contains(&e.name)) {
                names.insert(e.name, (places.number(e.id), e.kind));
            }
        }
        for (name, target) in &after {
            let Some(ino) = *target else { continue };
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
        let mut items = Vec::with_capacity(names.len() + 2);
        items.push(DirItem { name: b"."[..].into(), ino: dir.id, kind: Kind::Dir });
        items.push(DirItem { name: b".."[..].into(), ino: parent, kind: Kind::Dir });
        items.extend(names.into_iter().map(|(name, (ino, kind))| DirItem { name, ino, kind }));
        Ok(Listing { items })
    }

    /// Names known in memory, and whether these are all.
    #[allow(clippy::type_complexity)]
    fn known(&self, dir: &Arc<Cell>) -> Result<(Vec<(Name, Option<InodeId>)>, bool)> {
        let i = dir.read();
        let d = i.node.dir.as_ref().ok_or(Error::NotDirectory)?;
        let names = d.entries.iter().map(|(n, e)| (n.clone(), e.target)).collect();
        // One listing is cheaper than to ask for each name whose inode left memory.
        Ok((names, d.complete && d.kept == 0 || i.node.is_dead()))
    }

    pub(super) fn list_backing(&self, dir: InodeId, each: &mut dyn FnMut(BackingEntry)) -> Result<()> {
        let _tree = self.volume.tree.read();
        let Some(path) = self.volume.places.read().path(dir) else { return Ok(()) };
        self.volume.may_ask_backing()?;
        self.volume.backing.list(&BackingPath(path), each).map_err(Error::Backing)
    }
}
