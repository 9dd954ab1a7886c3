//! Applying a mutation: cannot fail. The live path and recovery both end here.

use super::Volume;
use super::table::{Cell, Inode, Locked};
use crate::extents::{Extent, Source};
use crate::format::mutation::{AttrSet, EntryKey, Mutation, decode_xattrs};
use crate::namespace::acl;
use crate::namespace::places::PARKED;
use crate::namespace::{Node, Place};
use crate::types::{Attr, ByteRange, InodeId, Kind, Lsn, Pos, Stamp};
use crate::wal::Segment;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The record that a mutation came in.
pub struct At {
    pub pos: Pos,
    pub wall_ns: i64,
    /// Where its data part lies, and how long it is.
    pub content: Option<Content>,
}

/// A data part in the log.
pub struct Content {
    pub segment: Arc<Segment>,
    pub record_at: u32,
    pub data_at: u32,
    pub len: u64,
    /// False: its checksum does not match; reads of it fail.
    pub sound: bool,
}

/// Inodes that a mutation needs locked (if they are in memory).
pub fn touched(m: &Mutation) -> Vec<InodeId> {
    match m {
        Mutation::Adopt { ino, at, .. } => vec![*ino, at.parent],
        Mutation::Create { at, .. } | Mutation::Placed { at, .. } => vec![at.parent],
        Mutation::Link { at, ino } | Mutation::Unlink { at, ino } | Mutation::Rmdir { at, ino } => {
            vec![at.parent, *ino]
        }
        Mutation::Rename { from, to, ino, replaced } | Mutation::Whiteout { from, to, ino, replaced, .. } => {
            [Some(from.parent), Some(to.parent), Some(*ino), *replaced].into_iter().flatten().collect()
        }
        Mutation::Exchange { a, b, ino_a, ino_b } => vec![a.parent, b.parent, *ino_a, *ino_b],
        Mutation::Write { ino, .. }
        | Mutation::SetAttr { ino, .. }
        | Mutation::Zero { ino, .. }
        | Mutation::SetXattrs { ino }
        | Mutation::Settled { ino }
        | Mutation::Updating { ino }
        | Mutation::Stored { ino, .. } => vec![*ino],
        Mutation::Intent { .. } | Mutation::Closed => Vec::new(),
    }
}

impl Volume {
    /// Applies a mutation to the locked inodes.
    pub(super) fn apply(&self, locked: &mut Locked<'_>, m: &Mutation, at: &At, data: &[u8]) {
        match m {
            Mutation::Adopt { ino, id, at: key, attr } => self.adopted(locked, *ino, *id, key, attr, at),
            Mutation::Create { at: key, ino, attr } => self.created(locked, key, *ino, attr, data, at),
            Mutation::Link { at: key, ino } => {
                self.entry_changed(locked, key, Some(*ino), 0, at);
                self.link_changed(locked, *ino, 1, at, |n| n.parents.push(key.clone()));
            }
            Mutation::Unlink { at: key, ino } => {
                self.entry_changed(locked, key, None, 0, at);
                self.link_changed(locked, *ino, -1, at, |n| n.parents.retain(|p| p != key));
                self.bury(locked, *ino);
            }
            Mutation::Rmdir { at: key, ino } => {
                self.entry_changed(locked, key, None, -1, at);
                self.link_changed(locked, *ino, -2, at, |n| n.parents.clear());
                self.bury(locked, *ino);
            }
            Mutation::Rename { from, to, ino, replaced } => {
                self.renamed(locked, from, to, *ino, *replaced, at)
            }
            Mutation::Whiteout { from, to, ino, replaced, white, attr } => {
                self.renamed(locked, from, to, *ino, *replaced, at);
                self.created(locked, from, *white, attr, &[], at);
            }
            Mutation::Exchange { a, b, ino_a, ino_b } => self.exchanged(locked, a, b, *ino_a, *ino_b, at),
            Mutation::Write { ino, offset, clear_suid } => {
                self.written(locked, *ino, *offset, *clear_suid, at)
            }
            Mutation::SetAttr { ino, set } => self.attr_set(locked, *ino, set, at),
            Mutation::Zero { ino, offset, len, size } => {
                let Some(i) = locked.get_mut(*ino) else { return };
                i.node.attr.size = i.node.attr.size.max(*size);
                let e = Extent { len: *len, lsn: at.pos.lsn, source: Source::Zero };
                let gone = self.place_extent(i, *offset, e);
                i.node.attr.blocks = blocks(&i.node.attr, i.node.attr.blocks, gone);
                self.content_changed(i, at);
            }
            Mutation::SetXattrs { ino } => {
                let Some(i) = locked.get_mut(*ino) else { return };
                // A set that cannot be read was refused before it was appended.
                let set = decode_xattrs(data).unwrap_or_default();
                if let Some(list) = acl::find(&set, acl::ACCESS) {
                    i.node.attr.mode = list.mode(i.node.attr.mode);
                }
                i.node.xattrs = Some(set);
                i.node.xattrs_lsn = at.pos.lsn;
                i.node.attr.ctime = Stamp::from_ns(at.wall_ns);
                i.node.meta_lsn = at.pos.lsn;
                i.node.last = at.pos;
                self.mark_dirty(&mut i.node, at.wall_ns);
            }
            Mutation::Settled { ino } => {
                if let Some(i) = locked.get_mut(*ino) {
                    self.end_rewriting(i);
                    i.node.last = at.pos;
                }
            }
            Mutation::Intent { ino, id, at: key } => {
                self.intents.lock().push((*ino, Place { id: *id, at: key.clone() }));
            }
            Mutation::Stored { ino, data, meta, size, seen } => {
                self.stored(locked, *ino, *data, *meta, *size);
                if let Some(i) = locked.get_mut(*ino) {
                    i.node.seen = seen.filter(|_| i.node.attr.kind == Kind::File).map(|s| (s, *size));
                    // Without content of its own it is as large as the backing has it: what something else wrote
                    // there was taken in, which no record before this one tells.
                    if i.node.seen.is_some() && i.node.data_lsn == Lsn::NONE && i.map.is_empty() {
                        i.node.attr.size = *size;
                        i.node.base_end = *size;
                    }
                }
            }
            Mutation::Updating { ino } => {
                if let Some(i) = locked.get_mut(*ino) {
                    i.node.seen = None;
                }
            }
            Mutation::Placed { at: key, as_of, holds } => {
                // The writeback itself knew it as it happened.
                if self.recovering.load(Ordering::Relaxed) {
                    let mut places = self.places.write();
                    match holds {
                        Some((ino, id)) => places.set(*ino, *id, key),
                        None => drop(places.unset(key)),
                    }
                }
                if let Some(d) = locked.get_mut(key.parent).and_then(|i| i.node.dir.as_mut()) {
                    d.stored(&key.name, *as_of);
                }
            }
            Mutation::Closed => self.intents.lock().clear(),
        }
    }

    fn adopted(
        &self,
        locked: &mut Locked<'_>,
        ino: InodeId,
        id: crate::types::BackingId,
        key: &EntryKey,
        attr: &crate::types::Attr,
        at: &At,
    ) {
        if let Some(i) = locked.get_mut(ino) {
            (i.node.last, i.node.links) = (at.pos, at.pos);
        }
        // The live path adopts what it has in memory.
        if !self.recovering.load(Ordering::Relaxed) {
            return;
        }
        self.places.write().set(ino, id, key);
        // A name of the backing need not be one of programs: they may have removed it.
        let named = match locked.get_mut(key.parent).and_then(|i| i.node.dir.as_mut()) {
            Some(d) => {
                d.found(&key.name, ino);
                d.entries.get(&key.name).is_some_and(|e| e.target == Some(ino))
            }
            None => key.parent != PARKED,
        };
        let name = |n: &mut Node| {
            if named && !n.parents.contains(key) {
                n.parents.push(key.clone());
            }
        };
        if let Some(i) = locked.get_mut(ino) {
            name(&mut i.node);
            return;
        }
        let mut node = Node::found(ino, *attr);
        name(&mut node);
        (node.last, node.links) = (at.pos, at.pos);
        let cell = self.table.insert(Cell::new(node));
        cell.tracked.store(true, Ordering::Release);
    }

    /// A new object, made here, under a free name.
    fn created(
        &self,
        locked: &mut Locked<'_>,
        key: &EntryKey,
        ino: InodeId,
        attr: &Attr,
        data: &[u8],
        at: &At,
    ) {
        let mut node = Node::new(ino, *attr);
        node.base_end = 0;
        node.target = (attr.kind == Kind::Symlink).then(|| data.into());
        let xattrs =
            if attr.kind == Kind::Symlink { Vec::new() } else { decode_xattrs(data).unwrap_or_default() };
        node.xattrs = Some(xattrs);
        if let Some(d) = &mut node.dir {
            d.complete = true;
        }
        node.parents.push(key.clone());
        (node.last, node.links) = (at.pos, at.pos);
        (node.meta_lsn, node.data_lsn) = (at.pos.lsn, at.pos.lsn);
        self.mark_dirty(&mut node, at.wall_ns);
        let cell = Cell::new(node);
        cell.tracked.store(true, Ordering::Release);
        self.table.insert(cell);
        let up = if attr.kind == Kind::Dir { 1 } else { 0 };
        self.entry_changed(locked, key, Some(ino), up, at);
    }

    /// A name of a directory changed; `dirs` is the change of its number of subdirectories.
    fn entry_changed(
        &self,
        locked: &mut Locked<'_>,
        key: &EntryKey,
        target: Option<InodeId>,
        dirs: i32,
        at: &At,
    ) {
        let Some(p) = locked.get_mut(key.parent) else { return };
        if let Some(d) = &mut p.node.dir {
            d.set(&key.name, target, at.pos);
        }
        let now = Stamp::from_ns(at.wall_ns);
        (p.node.attr.mtime, p.node.attr.ctime) = (now, now);
        // A store that does not count subdirectories says 1, and 0 would mean removed.
        if p.node.attr.nlink >= 2 {
            p.node.attr.nlink = p.node.attr.nlink.saturating_add_signed(dirs).max(2);
        }
        p.node.meta_lsn = at.pos.lsn;
        self.mark_dirty(&mut p.node, at.wall_ns);
    }

    fn link_changed(
        &self,
        locked: &mut Locked<'_>,
        ino: InodeId,
        links: i32,
        at: &At,
        change: impl FnOnce(&mut Node),
    ) {
        let Some(i) = locked.get_mut(ino) else { return };
        let n = &mut i.node;
        n.attr.nlink =
            if n.attr.kind == Kind::Dir && links < 0 { 0 } else { n.attr.nlink.saturating_add_signed(links) };
        n.attr.ctime = Stamp::from_ns(at.wall_ns);
        n.links = at.pos;
        n.meta_lsn = at.pos.lsn;
        change(n);
        self.mark_dirty(n, at.wall_ns);
    }

    fn renamed(
        &self,
        locked: &mut Locked<'_>,
        from: &EntryKey,
        to: &EntryKey,
        ino: InodeId,
        replaced: Option<InodeId>,
        at: &At,
    ) {
        let is_dir = |l: &Locked<'_>, i| l.get(i).is_some_and(|i| i.node.attr.kind == Kind::Dir);
        let moved_dir = is_dir(locked, ino) as i32;
        let replaced_dir = replaced.is_some_and(|r| is_dir(locked, r)) as i32;
        self.entry_changed(locked, from, None, -moved_dir, at);
        self.entry_changed(locked, to, Some(ino), moved_dir - replaced_dir, at);
        if let Some(r) = replaced {
            self.link_changed(locked, r, -1 - replaced_dir, at, |n| n.parents.retain(|p| p != to));
            self.bury(locked, r);
        }
        self.link_changed(locked, ino, 0, at, |n| {
            n.parents.retain(|p| p != from);
            n.parents.push(to.clone());
        });
    }

    fn exchanged(
        &self,
        locked: &mut Locked<'_>,
        a: &EntryKey,
        b: &EntryKey,
        ino_a: InodeId,
        ino_b: InodeId,
        at: &At,
    ) {
        let is_dir = |l: &Locked<'_>, i| l.get(i).is_some_and(|i| i.node.attr.kind == Kind::Dir);
        let (da, db) = (is_dir(locked, ino_a) as i32, is_dir(locked, ino_b) as i32);
        self.entry_changed(locked, a, Some(ino_b), db - da, at);
        self.entry_changed(locked, b, Some(ino_a), da - db, at);
        self.link_changed(locked, ino_a, 0, at, |n| {
            n.parents.retain(|p| p != a);
            n.parents.push(b.clone());
        });
        self.link_changed(locked, ino_b, 0, at, |n| {
            n.parents.retain(|p| p != b);
            n.parents.push(a.clone());
        });
    }

    fn written(&self, locked: &mut Locked<'_>, ino: InodeId, offset: u64, clear_suid: bool, at: &At) {
        let (Some(i), Some(c)) = (locked.get_mut(ino), &at.content) else { return };
        let source = if c.sound {
            c.segment.add_live(c.len as i64);
            Source::Log { segment: c.segment.id, record: c.record_at, data: c.data_at }
        } else {
            Source::Damaged
        };
        self.dirty_bytes.fetch_add(c.len as i64, Ordering::Relaxed);
        let gone = self.place_extent(i, offset, Extent { len: c.len, lsn: at.pos.lsn, source });
        let a = &mut i.node.attr;
        a.size = a.size.max(offset + c.len);
        a.blocks = blocks(a, a.blocks + c.len.div_ceil(512), gone);
        if clear_suid {
            i.node.attr.mode = without_suid(i.node.attr.mode);
            i.node.meta_lsn = at.pos.lsn;
        }
        self.content_changed(i, at);
    }

    fn attr_set(&self, locked: &mut Locked<'_>, ino: InodeId, set: &AttrSet, at: &At) {
        let Some(i) = locked.get_mut(ino) else { return };
        if set.size == Some(0) && i.node.attr.size > 0 {
            self.begin_rewriting(i, at);
        }
        let a = &mut i.node.attr;
        a.mode = set.mode.unwrap_or(a.mode);
        a.uid = set.uid.unwrap_or(a.uid);
        a.gid = set.gid.unwrap_or(a.gid);
        a.atime = set.atime.unwrap_or(a.atime);
        a.mtime = set.mtime.unwrap_or(a.mtime);
        a.ctime = set.ctime.unwrap_or(Stamp::from_ns(at.wall_ns));
        let mode = a.mode;
        if set.mode.is_some() && i.node.xattrs.as_mut().is_some_and(|x| acl::follow(x, mode)) {
            i.node.xattrs_lsn = at.pos.lsn;
        }
        let a = &mut i.node.attr;
        if let Some(size) = set.size {
            let old = a.size;
            a.size = size;
            if size < old {
                let beyond = ByteRange { start: size, end: u64::MAX };
                self.drop_extents(i, beyond);
            }
            if size < i.node.base_end || size < old {
                i.node.cut(at.pos.lsn, size);
            }
            i.node.data_lsn = at.pos.lsn;
        }
        i.node.attr.blocks = blocks(&i.node.attr, i.node.attr.blocks, 0);
        i.node.meta_lsn = at.pos.lsn;
        i.node.last = at.pos;
        self.mark_dirty(&mut i.node, at.wall_ns);
    }

    fn content_changed(&self, i: &mut Inode, at: &At) {
        let now = Stamp::from_ns(at.wall_ns);
        let n = &mut i.node;
        (n.attr.mtime, n.attr.ctime) = (now, now);
        (n.data_lsn, n.meta_lsn) = (at.pos.lsn, at.pos.lsn);
        n.last = at.pos;
        self.mark_dirty(n, at.wall_ns);
    }

    /// Returns the bytes of content in the log that it took the place of.
    fn place_extent(&self, i: &mut Inode, start: u64, e: Extent) -> u64 {
        let mut bytes = 0;
        i.map.insert(start, e, &mut |gone| {
            self.superseded(gone);
            bytes += if gone.source == Source::Zero { 0 } else { gone.len };
        });
        bytes
    }

    fn drop_extents(&self, i: &mut Inode, range: ByteRange) {
        i.map.remove(range, &mut |gone| self.superseded(gone));
    }

    /// Bytes that never had to go to the backing.
    pub(super) fn superseded(&self, e: &Extent) {
        if let Source::Log { segment, .. } = e.source {
            self.release_live(segment, e.len);
            self.absorbed_bytes.fetch_add(e.len, Ordering::Relaxed);
        }
        if e.source != Source::Zero {
            self.dirty_bytes.fetch_sub(e.len as i64, Ordering::Relaxed);
        }
    }

    pub(super) fn release_live(&self, segment: crate::types::SegmentId, len: u64) {
        if let Some(s) = self.wal.pool.get(segment) {
            s.add_live(-(len as i64));
        }
    }

    /// The last name is gone: unless something still has it open, its content is not needed.
    fn bury(&self, locked: &mut Locked<'_>, ino: InodeId) {
        let Some(i) = locked.get_mut(ino) else { return };
        if !i.node.is_dead() {
            return;
        }
        let used = self.recovering.load(Ordering::Relaxed)
            || self.table.get(ino).is_some_and(|c| {
                c.opens.load(Ordering::Acquire) > 0 || c.lookups.load(Ordering::Acquire) > 0
            });
        if !used {
            self.drop_content(i);
            self.table.remove(ino);
        }
    }

    /// The last reference to a dead inode is gone: drops its content.
    pub(super) fn drop_content(&self, i: &mut Inode) {
        self.end_rewriting(i);
        self.drop_extents(i, ByteRange { start: 0, end: u64::MAX });
    }

    fn stored(&self, locked: &mut Locked<'_>, ino: InodeId, data: Lsn, meta: Lsn, size: u64) {
        let Some(i) = locked.get_mut(ino) else { return };
        if data != Lsn::NONE {
            let gone = &mut |e: &Extent| {
                if let Source::Log { segment, .. } = e.source {
                    self.release_live(segment, e.len);
                    self.stored_bytes.fetch_add(e.len, Ordering::Relaxed);
                }
                if e.source != Source::Zero {
                    self.dirty_bytes.fetch_sub(e.len as i64, Ordering::Relaxed);
                }
            };
            i.map.remove_stored(data, gone);
            i.node.content_stored(data, size);
            if let Some(b) = &mut i.before {
                b.map.remove_stored(data, gone);
                b.content_stored(data, size);
            }
        }
        if i.node.meta_lsn <= meta {
            i.node.meta_lsn = Lsn::NONE;
        }
        if i.node.xattrs_lsn <= meta {
            i.node.xattrs_lsn = Lsn::NONE;
        }
    }

    /// Puts a changed inode into the writeback's queue.
    pub(super) fn mark_dirty(&self, n: &mut Node, wall_ns: i64) {
        if n.queued {
            return;
        }
        n.queued = true;
        n.dirty_since_ns = wall_ns;
        self.dirty.push(wall_ns, n.id);
    }
}

/// Allocated 512-byte blocks after a change: about what the backing will say. Where its file has holes
/// under what was overwritten it is not known how many.
fn blocks(a: &Attr, with: u64, gone: u64) -> u64 {
    with.saturating_sub(gone / 512).min(a.size.div_ceil(4096) * 8)
}

/// What a write by another than root leaves of a mode: setuid goes, setgid too where it means that.
pub fn without_suid(mode: u32) -> u32 {
    let m = mode & !0o4000;
    if m & 0o010 != 0 { m & !0o2000 } else { m }
}
