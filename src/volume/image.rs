//! What a log directory holds: its checkpoint and its segments, read and verified; and the checkpoint
//! brought into memory.

use super::Volume;
use super::checkpoint::load;
use super::rewrite::Before;
use super::table::Cell;
use crate::extents::{Extent, Source};
use crate::format::checkpoint::{self, Checkpoint, SavedInode, SavedSource};
use crate::format::mutation::EntryKey;
use crate::namespace::{Entry, Node, Place};
use crate::sys::disk::Disk;
use crate::types::{BackingId, InodeId, Lsn, Pos, SegmentId};
use crate::wal::pool::parse_file_name;
use crate::wal::scan::{Damage, Found, HEADER_LOST, Scan, scan};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All that a log directory holds, read and verified. Used by recovery, `fsck` and `dump`.
pub struct LogImage {
    pub checkpoint: Option<Checkpoint>,
    /// One of the checkpoint's two files cannot be read: which, and why.
    pub checkpoint_damage: Option<String>,
    pub scans: Vec<(SegmentId, u64, Arc<dyn crate::sys::disk::DiskFile>, Scan)>,
    pub damage: Vec<Damage>,
}

/// Reads a log without changing it. Errors: one line for people.
pub fn read_log(disk: &dyn Disk) -> Result<LogImage, String> {
    let (checkpoint, checkpoint_damage) = load(disk)?;
    let known: HashMap<u32, (u32, u32)> = checkpoint
        .iter()
        .flat_map(|c| c.segments.iter().map(|s| (s.id, (s.generation, s.durable))))
        .collect();
    let files = disk.list().map_err(|e| format!("listing the log failed: {e}"))?;
    let ids: Vec<(SegmentId, String, u64)> = files
        .into_iter()
        .filter_map(|(name, size)| parse_file_name(&name).map(|id| (id, name, size)))
        .collect();
    let log = checkpoint.as_ref().map_or(0, |c| c.log);
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<_>, String> {
        let mut out = Vec::new();
        while let Some((id, name, size)) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            let file = disk.open(name).map_err(|e| format!("opening {name} failed: {e}"))?;
            let s = scan(&*file, *id, known.get(&id.0).copied(), log, &|k| k != 8)
                .map_err(|e| format!("reading {name} failed: {e}"))?;
            out.push((*id, *size, file, s));
        }
        Ok(out)
    };
    let mut scans = Vec::new();
    for part in crate::sys::worker::in_parallel(2, work).map_err(|e| format!("scanning failed: {e}"))? {
        scans.extend(part?);
    }
    scans.sort_by_key(|s| s.0);
    let mut damage: Vec<Damage> = scans.iter().flat_map(|s| s.3.damage.clone()).collect();
    if let Some(c) = &checkpoint {
        let scan_of = |id| scans.iter().find(|s| s.0 == id).map(|s| &s.3);
        damage.retain(|d| !scan_of(d.segment).is_some_and(|s| is_past(d, s, c)) || is_needed(d, c));
    }
    Ok(LogImage { checkpoint, checkpoint_damage, scans, damage })
}

/// True for a stretch of records that all lie before the checkpoint: nothing of it would be replayed. A tail that
/// was torn by a power cut becomes such a stretch with the recovery after it.
pub(super) fn is_past(d: &Damage, s: &Scan, c: &Checkpoint) -> bool {
    if d.what != HEADER_LOST {
        return s.records.iter().any(|r| r.record_at == d.start && r.header.lsn.0 <= c.lsn);
    }
    match neighbours(d, s).1 {
        Some(after) => after.0 <= c.lsn,
        None => d.end <= durable_at(s, d.segment, c),
    }
}

/// LSN of the last record before a damaged stretch and of the first behind it.
pub(super) fn neighbours(d: &Damage, s: &Scan) -> (Option<Lsn>, Option<Lsn>) {
    let lsn = |r: &Found| r.header.lsn;
    let before = s.records.iter().filter(|r| r.record_at < d.start).map(lsn).max();
    (before, s.records.iter().filter(|r| r.record_at >= d.start).map(lsn).min())
}

/// How far a segment was durable when the checkpoint was taken, if it is still the same generation.
pub(super) fn durable_at(s: &Scan, id: SegmentId, c: &Checkpoint) -> u32 {
    let generation = s.header.map(|h| h.generation).or(s.records.first().map(|r| r.header.generation));
    let same = |k: &&checkpoint::SavedSegment| k.id == id.0 && Some(k.generation) == generation;
    c.segments.iter().find(same).map_or(0, |k| k.durable)
}

/// The checkpoint names bytes of a record that began there.
fn is_needed(d: &Damage, c: &Checkpoint) -> bool {
    let of_before = c.rewritten.iter().flat_map(|b| &b.extents);
    c.inodes.iter().flat_map(|i| &i.extents).chain(of_before).any(|e| match e.source {
        SavedSource::Log { segment, record, .. } => {
            segment == d.segment.0 && (d.start..d.end).contains(&record)
        }
        _ => false,
    })
}

impl Volume {
    pub(super) fn load_checkpoint(&self, c: &Checkpoint) {
        for s in &c.inodes {
            let cell = if s.ino == InodeId::ROOT.0 {
                self.table.get(InodeId::ROOT).unwrap_or_else(|| Cell::new(load_node(s)))
            } else {
                Cell::new(load_node(s))
            };
            if s.ino == InodeId::ROOT.0 {
                cell.write().node = load_node(s);
            }
            {
                let mut i = cell.write();
                for e in &s.extents {
                    self.load_extent(&mut i.map, e);
                }
            }
            cell.tracked.store(true, Ordering::Release);
            self.table.insert(cell);
        }
        for b in &c.rewritten {
            let Some(cell) = self.table.get(InodeId(b.ino)) else { continue };
            let mut map = crate::extents::Map::default();
            b.extents.iter().for_each(|e| self.load_extent(&mut map, e));
            let mut i = cell.write();
            i.before = Some(Box::new(Before {
                map,
                base_end: b.base_end,
                cuts: b.cuts.iter().map(|c| (Lsn(c.0), c.1)).collect(),
                size: b.size,
                blocks: b.blocks,
                mtime: b.mtime,
                data_lsn: Lsn(b.data_lsn),
                since_ns: b.since_ns,
            }));
        }
        for (ino, mtime, size) in &c.seen {
            if let Some(cell) = self.table.get(InodeId(*ino)) {
                cell.write().node.seen = Some((*mtime, *size));
            }
        }
        {
            let mut places = self.places.write();
            for o in &c.objects {
                places.claim(InodeId(o.ino), BackingId(o.id));
                for (parent, name) in &o.names {
                    let key = EntryKey { parent: InodeId(*parent), name: name.as_slice().into() };
                    places.set(InodeId(o.ino), BackingId(o.id), &key);
                }
            }
        }
        // Programs reach what has changes by these names, whatever the backing holds there by now.
        for cell in c.inodes.iter().filter_map(|s| self.table.get(InodeId(s.ino))) {
            let parents = cell.read().node.parents.clone();
            for key in parents {
                let Some(dir) = self.table.get(key.parent) else { continue };
                if let Some(d) = &mut dir.write().node.dir {
                    d.found(&key.name, cell.id);
                }
            }
        }
        for i in &c.intents {
            let at = EntryKey { parent: InodeId(i.parent), name: i.name.as_slice().into() };
            self.intents.lock().push((InodeId(i.ino), Place { id: BackingId(i.id), at }));
        }
        let mut dirty: Vec<(i64, InodeId)> = Vec::new();
        for c in self.table.all() {
            let mut i = c.write();
            if i.node.is_dirty() || !i.map.is_empty() {
                i.node.queued = true;
                dirty.push((i.node.dirty_since_ns, c.id));
            }
        }
        dirty.sort();
        dirty.into_iter().for_each(|(t, id)| self.dirty.push(t, id));
    }

    fn load_extent(&self, map: &mut crate::extents::Map, e: &checkpoint::SavedExtent) {
        let source = match e.source {
            SavedSource::Zero => Source::Zero,
            SavedSource::Damaged => Source::Damaged,
            SavedSource::Log { segment, record, data } => {
                let segment = SegmentId(segment);
                match self.wal.pool.get(segment) {
                    Some(s) if self.wal.read_verified(&s, record).is_ok() => {
                        s.add_live(e.len as i64);
                        Source::Log { segment, record, data }
                    }
                    _ => Source::Damaged,
                }
            }
        };
        if source != Source::Zero {
            self.dirty_bytes.fetch_add(e.len as i64, Ordering::Relaxed);
        }
        let extent = Extent { len: e.len, lsn: Lsn(e.lsn), source };
        map.insert(e.start, extent, &mut |_| {});
    }
}

fn load_node(s: &SavedInode) -> Node {
    let mut n = Node::new(InodeId(s.ino), s.attr);
    n.target = (!s.target.is_empty()).then(|| s.target.clone().into());
    n.xattrs = s.xattrs.as_ref().map(|x| x.iter().map(|(k, v)| (k.as_slice().into(), v.clone())).collect());
    (n.meta_lsn, n.data_lsn, n.xattrs_lsn) = (Lsn(s.meta_lsn), Lsn(s.data_lsn), Lsn(s.xattrs_lsn));
    n.rewriting = Lsn(s.rewriting);
    n.dirty_since_ns = s.dirty_since_ns;
    n.base_end = s.base_end;
    n.cuts = s.cuts.iter().map(|c| (Lsn(c.0), c.1)).collect();
    n.parents = s
        .parents
        .iter()
        .map(|(p, name)| EntryKey { parent: InodeId(*p), name: name.as_slice().into() })
        .collect();
    if let Some(d) = &mut n.dir {
        d.complete = s.complete && s.ino != InodeId::ROOT.0;
        for e in &s.entries {
            d.dirty += 1;
            d.entries.insert(
                e.name.as_slice().into(),
                Entry {
                    target: e.target.map(InodeId),
                    lsn: Lsn(e.lsn),
                    pos: Pos { lsn: Lsn(e.lsn), ..Pos::default() },
                },
            );
        }
    }
    n
}
