//! What the writeback sees of an inode, and how it says what the backing has.

use super::Volume;
use super::apply::At;
use super::commit::Data;
use super::error::{Error, Result};
use super::table::{Cell, Locked};
use crate::backing::{BackingFile, BackingStat};
use crate::extents::Source;
use crate::format::mutation::{AttrSet, EntryKey, Mutation};
use crate::types::{Attr, ByteRange, InodeId, Lsn, Name, Pos, Stamp};
use crate::wal::Class;
use std::sync::Arc;

/// What is copied of a backing's file at a time.
const BASE_PIECE_BYTES: u64 = 1 << 20;

/// A piece of content to be stored.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotPiece {
    pub range: ByteRange,
    /// `None`: the backing has it already.
    pub source: Option<Source>,
}

/// An inode at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub ino: InodeId,
    pub attr: Attr,
    pub target: Vec<u8>,
    /// The whole set, if it must be set.
    pub xattrs: Option<Vec<(Name, Vec<u8>)>>,
    /// Content and attributes are as of these records; `NONE` where the backing agrees.
    pub data: Lsn,
    pub meta: Lsn,
    pub base_end: u64,
    /// Modification time and size that its file should have in the backing; `None`: not known.
    pub seen: Option<(Stamp, u64)>,
    pub pieces: Vec<SnapshotPiece>,
    pub parents: Vec<EntryKey>,
    pub dead: bool,
    /// It was truncated and is not known to be whole yet.
    pub rewriting: bool,
    /// When the first of its changes was made that the backing lacks, as far as the queue knows; nanoseconds since 1970.
    pub since_ns: i64,
}

impl Volume {
    /// An inode as it is now. `None`: it left memory, so it is clean or gone.
    pub fn snapshot(&self, ino: InodeId) -> Option<Snapshot> {
        let cell = self.table.get(ino)?;
        let i = cell.read();
        let n = &i.node;
        let range = ByteRange { start: 0, end: n.attr.size };
        let pieces = if n.data_lsn == Lsn::NONE {
            Vec::new()
        } else {
            let plan = i.map.plan(range, n.base_end);
            plan.iter().map(|p| SnapshotPiece { range: p.range, source: p.source }).collect()
        };
        Some(Snapshot {
            ino,
            attr: n.attr,
            target: n.target.as_deref().unwrap_or_default().to_vec(),
            xattrs: if n.xattrs_lsn != Lsn::NONE { n.xattrs.clone() } else { None },
            data: n.data_lsn,
            meta: n.meta_lsn.max(n.xattrs_lsn),
            base_end: n.base_end,
            seen: n.seen,
            pieces,
            parents: n.parents.to_vec(),
            dead: n.is_dead(),
            rewriting: n.rewriting != Lsn::NONE,
            since_ns: n.dirty_since_ns,
        })
    }

    /// Feeds the pieces that are not in the backing to `sink`, verified against their checksums. With a `base`
    /// those that are there as well, read from it; what it does not have is zeros.
    pub fn pull(
        &self,
        snap: &Snapshot,
        base: Option<&dyn BackingFile>,
        sink: &mut dyn FnMut(crate::backing::Piece<'_>) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let _pinned = crossbeam_epoch::pin();
        for p in &snap.pieces {
            let (offset, len) = (p.range.start, p.range.len());
            match p.source {
                None => {
                    let Some(base) = base else { continue };
                    let mut at = offset;
                    while at < offset + len {
                        let n = (offset + len - at).min(BASE_PIECE_BYTES) as usize;
                        let mut bytes = vec![0; n];
                        super::read::read_base(base, at, &mut bytes).map_err(std::io::Error::other)?;
                        sink(crate::backing::Piece::Data { offset: at, bytes: &bytes })?;
                        at += n as u64;
                    }
                }
                Some(Source::Zero) => sink(crate::backing::Piece::Zero { offset, len })?,
                Some(Source::Damaged) => {
                    return Err(std::io::Error::new(
                        std::io::ErrorKind::InvalidData,
                        format!("inode {}: bytes at {offset} were lost to damage in the log", snap.ino),
                    ));
                }
                Some(Source::Log { segment, record, data }) => {
                    let seg = self.wal.pool.get(segment).ok_or(std::io::ErrorKind::NotFound)?;
                    let (bytes, data_at) = self.wal.read_verified(&seg, record)?;
                    let from = (data - data_at) as usize;
                    let piece =
                        bytes.get(from..from + len as usize).ok_or(std::io::ErrorKind::InvalidData)?;
                    sink(crate::backing::Piece::Data { offset, bytes: piece })?;
                }
            }
            self.given_bytes.fetch_add(len, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    /// Names of a directory that the backing does not agree on, with what they lead to.
    pub fn dirty_entries(&self, dir: InodeId) -> Vec<(Name, Option<InodeId>, Lsn)> {
        let Some(cell) = self.table.get(dir) else { return Vec::new() };
        let i = cell.read();
        let Some(d) = &i.node.dir else { return Vec::new() };
        d.entries
            .iter()
            .filter(|(_, e)| e.lsn != Lsn::NONE)
            .map(|(n, e)| (n.clone(), e.target, e.lsn))
            .collect()
    }

    /// A name's entry as it is now: target, and the last change that the backing does not have.
    pub fn entry(&self, key: &EntryKey) -> Option<(Option<InodeId>, Lsn)> {
        let cell = self.table.get(key.parent)?;
        let i = cell.read();
        let e = i.node.dir.as_ref()?.entries.get(&key.name)?;
        Some((e.target, e.lsn))
    }

    /// Where an inode is to stand in the backing, by the first of its names: in a directory that the backing has where it
    /// has it, else where programs have it.
    pub fn place_to_be(&self, snap: &Snapshot) -> Option<Vec<u8>> {
        let key = snap.parents.first()?;
        let (mut names, mut dir) = (vec![key.name.clone()], key.parent);
        for _ in 0..4096 {
            if let Some(path) = self.places.read().path(dir) {
                let tail: Vec<&[u8]> = names.iter().rev().map(|n| &n[..]).collect();
                let tail = tail.join(&b'/');
                return Some(if path.is_empty() { tail } else { [&path[..], &tail].join(&b'/') });
            }
            let key = self.name_of(dir)?;
            names.push(key.name);
            dir = key.parent;
        }
        None
    }

    /// Bytes of the path by which programs reach a directory.
    pub fn path_bytes(&self, dir: InodeId) -> usize {
        let (mut at, mut bytes) = (dir, 0);
        for _ in 0..4096 {
            if at == InodeId::ROOT {
                break;
            }
            let Some(key) = self.name_of(at) else { break };
            bytes += key.name.len() + 1;
            at = key.parent;
        }
        bytes
    }

    /// Bytes of the longest path below a directory, from it, as far as its tree is in memory.
    pub fn longest_below(&self, dir: InodeId) -> usize {
        let (mut longest, mut todo) = (0, vec![(dir, 0)]);
        while let Some((at, above)) = todo.pop() {
            let Some(cell) = self.table.get(at) else { continue };
            let i = cell.read();
            let Some(d) = &i.node.dir else { continue };
            for (name, t) in d.entries.iter().filter_map(|(n, e)| Some((n, e.target?))) {
                let bytes = above + name.len();
                longest = longest.max(bytes);
                todo.push((t, bytes + 1));
            }
        }
        longest
    }

    /// A name by which programs reach an inode.
    pub fn name_of(&self, ino: InodeId) -> Option<EntryKey> {
        self.table.get(ino)?.read().node.parents.first().cloned()
    }

    /// Drops names that were made and removed here and never reached the backing.
    /// `unsaid`: what was changed in the backing and may not be there for good yet; those names stay.
    pub fn sweep(&self, dir: InodeId, unsaid: &std::collections::HashSet<EntryKey>) -> usize {
        let Some(cell) = self.table.get(dir) else { return 0 };
        let stable = self.wal.marks.stable();
        let mut i = cell.write();
        let Some(d) = &mut i.node.dir else { return 0 };
        let places = self.places.read();
        let held = |name: &Name| {
            let key = EntryKey { parent: dir, name: name.clone() };
            places.under(&key).is_some() || places.former(&key).is_some() || unsaid.contains(&key)
        };
        let before = d.entries.len();
        d.entries.retain(|n, e| e.target.is_some() || e.lsn == Lsn::NONE || e.lsn > stable || held(n));
        let gone = before - d.entries.len();
        d.dirty -= gone;
        d.version += (gone > 0) as u64;
        gone
    }

    /// Logs what the writeback found or did. Errors: the log is full or failed.
    pub fn record(&self, m: &Mutation) -> Result<()> {
        let change = self.change(&self.system);
        let ids = super::apply::touched(m);
        let cells: Vec<Arc<Cell>> = ids.iter().filter_map(|&i| self.table.get(i)).collect();
        let refs: Vec<&Arc<Cell>> = cells.iter().collect();
        let mut locked = Locked::new(&refs);
        change.commit(&mut locked, m, Data::NONE, Class::System).map(drop)
    }

    /// Logs the times of a directory that is clean: names in it are about to be replaced in the backing, which gives
    /// it other ones there until they are set back. Returns whether there was need to.
    pub fn keep_times(&self, ino: InodeId) -> Result<bool> {
        let Some(cell) = self.table.get(ino) else { return Ok(false) };
        if cell.read().node.meta_lsn != Lsn::NONE {
            return Ok(false);
        }
        let change = self.change(&self.system);
        change.track(&cell)?;
        let mut locked = Locked::new(&[&cell]);
        let attr = match locked.get(ino) {
            Some(i) if i.node.meta_lsn == Lsn::NONE && !i.node.is_dead() => i.node.attr,
            _ => return Ok(false),
        };
        let set = AttrSet { mtime: Some(attr.mtime), ctime: Some(attr.ctime), ..AttrSet::default() };
        change.commit(&mut locked, &Mutation::SetAttr { ino, set }, Data::NONE, Class::System)?;
        Ok(true)
    }

    /// Says in the log who an inode is and where it stands, unless it does so already. Returns whether
    /// something was said.
    pub fn track(&self, ino: InodeId) -> Result<bool> {
        match self.table.get(ino) {
            Some(cell) => self.change(&self.system).track(&cell),
            None => Ok(false),
        }
    }

    /// The backing's file of an inode that has no content of its own was changed by something else: it is what the
    /// backing says.
    pub fn take_in(&self, ino: InodeId, now: &BackingStat) {
        let Some(cell) = self.table.get(ino) else { return };
        let mut i = cell.write();
        if i.node.data_lsn == Lsn::NONE && i.map.is_empty() {
            cell.stale.store(true, std::sync::atomic::Ordering::Release);
            let n = &mut i.node;
            (n.attr.size, n.attr.mtime, n.attr.blocks) = (now.attr.size, now.attr.mtime, now.attr.blocks);
            n.base_end = now.attr.size;
            n.seen = Some((now.attr.mtime, now.attr.size));
        }
    }

    /// Looks at the backing's file of an inode that nobody has open and that is clean, as NFS clients do at each open.
    /// Returns whether something else has changed it; then it is what the backing says. One that cannot be asked
    /// now stays as it is.
    pub fn look_anew(&self, cell: &Arc<Cell>) -> bool {
        let seen = {
            let i = cell.read();
            let idle = cell.opens.load(std::sync::atomic::Ordering::Acquire) == 0;
            i.node.seen.filter(|_| idle && !i.node.is_dirty() && i.map.is_empty() && !i.node.is_dead())
        };
        let Some(seen) = seen.filter(|_| !self.backing.remote()) else { return false };
        match self.stat_in_backing(cell) {
            Ok(Some(now)) if (now.attr.mtime, now.attr.size) != seen => {
                log::info!("inode {} was changed in the backing by something else: it is read anew", cell.id);
                self.take_in(cell.id, &now);
                true
            }
            _ => false,
        }
    }

    /// What the file of an inode is expected to be in the backing.
    pub fn saw(&self, ino: InodeId, seen: Option<(Stamp, u64)>) {
        if let Some(cell) = self.table.get(ino) {
            cell.write().node.seen = seen;
        }
    }

    /// Ends an inode's stay in the queue: it comes back if it is still dirty. Returns whether it is.
    /// `since_ns`: what changed meanwhile counts as since then, else as since now.
    pub fn unqueue(&self, ino: InodeId, since_ns: Option<i64>) -> bool {
        self.dirty.done(ino);
        let Some(cell) = self.table.get(ino) else { return false };
        let still = {
            let mut i = cell.write();
            i.node.queued = false;
            let still = i.node.is_dirty() && !i.node.is_dead();
            if still {
                let since = since_ns.unwrap_or_else(|| self.clock.wall_ns());
                self.mark_dirty(&mut i.node, since);
            }
            still
        };
        if !still {
            self.evict(&cell);
        }
        still
    }

    /// Position of the gateway's own last record.
    pub fn system_last(&self) -> Pos {
        self.system.last()
    }

    /// All names by which programs reach an inode, as far as known.
    pub fn names_of(&self, ino: InodeId) -> Vec<EntryKey> {
        self.table.get(ino).map_or(Vec::new(), |c| c.read().node.parents.to_vec())
    }

    /// Kind of an inode in memory.
    pub fn kind_of(&self, ino: InodeId) -> Option<crate::types::Kind> {
        Some(self.table.get(ino)?.read().node.attr.kind)
    }

    /// True while a name leads to an inode.
    pub fn is_named(&self, ino: InodeId) -> bool {
        self.table.get(ino).is_some_and(|c| !c.read().node.is_dead())
    }

    /// True when no name leads to a directory any more. One that is not in memory is as the backing has it, unless
    /// programs removed its name there or something above it.
    pub fn is_removed(&self, dir: InodeId) -> bool {
        let mut at = dir;
        // Deeper than any tree is: places that lead in a circle are not believed.
        for _ in 0..4096 {
            if at == InodeId::ROOT {
                return false;
            }
            if let Some(c) = self.table.get(at) {
                return c.read().node.is_dead();
            }
            let Some(place) = self.places.read().get(at) else { return true };
            match self.entry(&place.at) {
                Some((target, _)) => return target != Some(at),
                None => at = place.at.parent,
            }
        }
        true
    }

    /// True while a name or an open handle leads to an inode.
    pub fn is_open_or_named(&self, ino: InodeId) -> bool {
        self.table.get(ino).is_some_and(|c| {
            c.opens.load(std::sync::atomic::Ordering::Acquire) > 0 || !c.read().node.is_dead()
        })
    }

    /// The backing holds names of a directory that memory does not know: ask it again.
    pub fn look_again(&self, dir: InodeId) {
        if let Some(c) = self.table.get(dir)
            && let Some(d) = &mut c.write().node.dir
        {
            self.kept_names.fetch_sub(d.kept as i64, std::sync::atomic::Ordering::Relaxed);
            d.open_up(|_| true);
        }
    }

    /// Applies a mutation found at recovery.
    pub(super) fn replay(&self, m: &Mutation, at: &At, data: &[u8]) {
        let ids = super::apply::touched(m);
        let cells: Vec<Arc<Cell>> = ids.iter().filter_map(|&i| self.table.get(i)).collect();
        let refs: Vec<&Arc<Cell>> = cells.iter().collect();
        let mut locked = Locked::new(&refs);
        self.apply(&mut locked, m, at, data);
    }

    /// Waits until all that was appended so far is durable.
    pub fn sync_log(&self) -> Result<()> {
        self.wal.sync_all_wait().map_err(|e| Error::SyncFailed(e.0))
    }
}
