//! The checkpoint: the volume's state at one LSN, durable before any segment it covers is recycled.

use super::Volume;
use super::error::{Error, Result};
use super::table::{Cell, Inode};
use crate::extents::{Extent, Source};
use crate::format::checkpoint::{
    self, Checkpoint, SavedBefore, SavedEntry, SavedExtent, SavedInode, SavedIntent, SavedObject,
    SavedSegment, SavedSource,
};
use crate::format::mutation::EntryKey;
use crate::namespace::Place;
use crate::namespace::Places;
use crate::namespace::places::PARKED;
use crate::sys::disk::Disk;
use crate::types::{InodeId, Lsn};
use crate::wal::Retired;
use parking_lot::RwLock;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Name of the checkpoint's file in the log directory.
pub const FILE: &str = "checkpoint";
const FILE_NEW: &str = "checkpoint.new";

/// The same bytes once more: a checkpoint that cannot be read takes all that lies before it along.
pub const FILE_COPY: &str = "checkpoint.copy";
const FILE_COPY_NEW: &str = "checkpoint.copy.new";

fn remove_if_there(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write_synced(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    remove_if_there(disk, name)?;
    let f = disk.create(name, 0)?;
    f.write_all_at(&[bytes], 0)?;
    f.sync_data()
}

/// Writes the checkpoint whole or not at all, and its copy. Where there is no room for the copy there is none: an old
/// one would tell of segments that are used anew by then.
fn store(disk: &dyn Disk, bytes: &[u8]) -> io::Result<()> {
    write_synced(disk, FILE_NEW, bytes)?;
    let copied = write_synced(disk, FILE_COPY_NEW, bytes);
    disk.rename(FILE_NEW, FILE)?;
    match copied {
        Ok(()) => disk.rename(FILE_COPY_NEW, FILE_COPY)?,
        Err(e) => {
            log::warn!("writing {FILE_COPY} failed: {e}; the checkpoint stands alone until the next one");
            remove_if_there(disk, FILE_COPY_NEW)?;
            remove_if_there(disk, FILE_COPY)?;
        }
    }
    disk.sync_dir()
}

/// The checkpoint of a log, `None` for a log without one, and what is wrong with one of its two files. Errors: one
/// line for people.
pub fn load(disk: &dyn Disk) -> std::result::Result<(Option<Checkpoint>, Option<String>), String> {
    let read = |name: &str| -> std::result::Result<Option<Checkpoint>, String> {
        match load_file(disk, name).map_err(|e| format!("reading {name} failed: {e}"))? {
            None => Ok(None),
            Some(b) => checkpoint::decode(&b).map(Some).map_err(|e| format!("{name}: {e}")),
        }
    };
    match (read(FILE), read(FILE_COPY)) {
        (Ok(Some(c)), Ok(_)) => Ok((Some(c), None)),
        (Ok(Some(c)), Err(e)) => Ok((Some(c), Some(e))),
        (Ok(None), Ok(Some(c))) => Ok((Some(c), Some(format!("{FILE}: it is gone")))),
        (Ok(None), Ok(None)) => Ok((None, None)),
        (Err(e), Ok(Some(c))) => Ok((Some(c), Some(e))),
        (Err(e), _) | (Ok(None), Err(e)) => Err(e),
    }
}

/// Reads a whole file of the log; `None` if it is not there.
fn load_file(disk: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    let f = match disk.open(name) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let len = f.len()?;
    if len > checkpoint::BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is too large")));
    }
    let mut v = vec![0; len as usize];
    f.read_exact_at(&mut v, 0)?;
    Ok(Some(v))
}

impl Volume {
    /// Takes a checkpoint and recycles the segments that nothing needs any more. Returns how many.
    pub fn checkpoint(&self) -> Result<usize> {
        let _one_at_a_time = self.checkpointing.lock();
        // Chosen with the image: a segment that lost its last needed byte only afterwards is still
        // named by it.
        let ((mut image, named), upto, idle) = {
            let _gate = self.gate.write();
            let upto = self.wal.marks.appended();
            (self.image(upto), upto, self.wal.idle_upto(upto))
        };
        // What the image holds must not outlive what it depends on: all of it durable first.
        self.sync_log()?;
        image.next_generation = self.wal.pool.next_generation();
        image.segments = self
            .wal
            .durable_positions()
            .into_iter()
            .map(|(id, generation, durable)| SavedSegment { id: id.0, generation, durable })
            .collect();
        let bytes = checkpoint::encode(&image).map_err(|e| Error::Log(io::Error::other(e)))?;
        store(&*self.disk, &bytes).map_err(Error::Log)?;
        self.checkpointed.store(upto.0, Ordering::Release);
        // Not before it is durable: what is changed in between would rely on it.
        for (c, found) in named {
            c.tracked.store(true, Ordering::Release);
            // A name that was found meanwhile is not in it.
            if c.found.load(Ordering::Acquire) != found {
                c.tracked.store(false, Ordering::Release);
            }
        }
        let n = self.wal.retire(Retired::by_checkpoint(idle));
        if n > 0 {
            self.space_freed();
        }
        Ok(n)
    }

    /// True while a checkpoint is taken.
    pub fn is_checkpointing(&self) -> bool {
        self.checkpointing.is_locked()
    }

    /// Position of the last durable checkpoint.
    pub fn checkpointed(&self) -> Lsn {
        Lsn(self.checkpointed.load(Ordering::Acquire))
    }

    /// The state, with the gate held for writing: nothing changes meanwhile. With it the inodes that it tells
    /// of, and how often a name of each had been found.
    fn image(&self, upto: Lsn) -> (Checkpoint, Vec<(Arc<Cell>, u32)>) {
        // Inode locks come before the places' lock, here as everywhere.
        let cells = self.table.all();
        let by_id: HashMap<InodeId, &Arc<Cell>> = cells.iter().map(|c| (c.id, c)).collect();
        let mut keep: HashSet<InodeId> = HashSet::new();
        for c in &cells {
            let i = c.read();
            if needed(&i) {
                let ups: Vec<InodeId> = i.node.parents.iter().map(|k| k.parent).collect();
                // What an unstored name leads to, here and in the backing, even if it is clean itself.
                let places = self.places.read();
                let unstored = i.node.dir.iter().flat_map(|d| &d.entries).filter(|e| e.1.lsn != Lsn::NONE);
                let awaited: Vec<InodeId> = unstored
                    .flat_map(|(name, e)| {
                        [e.target, places.under(&EntryKey { parent: c.id, name: name.clone() })]
                    })
                    .flatten()
                    .collect();
                drop(places);
                drop(i);
                for target in awaited {
                    keep_with_ancestors(target, &[], &self.places, &by_id, &mut keep);
                }
                keep_with_ancestors(c.id, &ups, &self.places, &by_id, &mut keep);
            }
        }
        // So does what stands parked in the backing, or in a directory that programs removed.
        let live: HashSet<InodeId> =
            cells.iter().filter(|c| !c.read().node.is_dead()).map(|c| c.id).collect();
        let homeless: Vec<InodeId> = {
            let places = self.places.read();
            let astray = |names: &[EntryKey]| names.iter().any(|k| !live.contains(&k.parent));
            places.objects().filter(|(_, names)| astray(names)).map(|(ino, _)| ino).collect()
        };
        for ino in homeless.into_iter().filter(|i| by_id.get(i).is_some_and(|c| !c.read().node.is_dead())) {
            keep_with_ancestors(ino, &[], &self.places, &by_id, &mut keep);
        }
        let mut inodes = Vec::with_capacity(keep.len());
        let (mut objects, mut disputed) = (Vec::new(), Vec::new());
        let (mut rewritten, mut seen) = (Vec::new(), Vec::new());
        for c in &cells {
            let tracked = keep.contains(&c.id);
            if !tracked {
                c.tracked.store(false, Ordering::Release);
            } else {
                let i = c.read();
                rewritten.extend(save_before(&i));
                seen.extend(i.node.seen.map(|s| (c.id.0, s.0, s.1)));
                inodes.push(save(&i, &self.places.read()));
                objects.push(c.id);
                let unstored = |d: &crate::namespace::Dir| {
                    let names = d.entries.iter().filter(|(_, e)| e.lsn != Lsn::NONE);
                    names.map(|(n, _)| EntryKey { parent: c.id, name: n.clone() }).collect::<Vec<_>>()
                };
                disputed.extend(i.node.dir.iter().flat_map(|d| unstored(d)));
            }
        }
        // One guard at a time: a second reader behind a waiting writer would wait for ever.
        let (objects, numbers, mut intents) = {
            let places = self.places.read();
            let numbers = places.numbers().map(|(id, ino)| (id.0, ino.0)).collect();
            // Older than all that is announced: what a later one tells counts first.
            let doubtful: Vec<SavedIntent> =
                places.doubtful().iter().map(|(ino, p)| save_intent(*ino, p)).collect();
            (save_objects(&places, objects, &disputed), numbers, doubtful)
        };
        intents.extend(self.intents.lock().iter().map(|(ino, p)| save_intent(*ino, p)));
        let named = cells.iter().filter(|c| keep.contains(&c.id));
        let named = named.map(|c| (c.clone(), c.found.load(Ordering::Acquire))).collect();
        let image = Checkpoint {
            log: self.log_id,
            backing: self.backing.describe(),
            lsn: upto.0,
            next_ino: self.next_ino.load(Ordering::Relaxed),
            next_generation: 0,
            boot: self.boot.clone(),
            segments: Vec::new(),
            inodes,
            objects,
            intents,
            numbers,
            rewritten,
            seen,
        };
        (image, named)
    }
}

/// An inode that the backing alone does not tell.
fn needed(i: &Inode) -> bool {
    !i.node.is_dead() && (i.node.is_dirty() || !i.map.is_empty())
}

fn keep_with_ancestors(
    id: InodeId,
    ups: &[InodeId],
    places: &RwLock<Places>,
    cells: &HashMap<InodeId, &Arc<Cell>>,
    keep: &mut HashSet<InodeId>,
) {
    if !keep.insert(id) {
        return;
    }
    let above = |id: InodeId| places.read().get(id).map(|p| p.at.parent);
    let mut next: Vec<InodeId> = ups.to_vec();
    next.extend(above(id));
    while let Some(up) = next.pop() {
        let Some(c) = cells.get(&up) else { continue };
        if keep.insert(up) {
            next.extend(c.read().node.parents.iter().map(|k| k.parent));
            next.extend(above(up));
        }
    }
}

fn save_intent(ino: InodeId, p: &Place) -> SavedIntent {
    SavedIntent { ino: ino.0, id: p.id.0, parent: p.at.parent.0, name: p.at.name.to_vec() }
}

/// What the backing holds of these inodes, under disputed names, and parked; with the directories above
/// each, and with all that is known below one that is there only because its name is disputed.
fn save_objects(places: &Places, inodes: Vec<InodeId>, disputed: &[EntryKey]) -> Vec<SavedObject> {
    let mut seen: HashSet<InodeId> = HashSet::new();
    let mut work: Vec<InodeId> = inodes;
    let kept: HashSet<InodeId> = work.iter().copied().collect();
    let mut down: Vec<InodeId> = disputed.iter().filter_map(|k| places.under(k)).collect();
    down.extend(places.below(PARKED).map(|(_, ino)| ino));
    while let Some(ino) = down.pop() {
        work.push(ino);
        if !kept.contains(&ino) {
            down.extend(places.below(ino).map(|(_, child)| child));
        }
    }
    let mut out = Vec::new();
    while let Some(ino) = work.pop() {
        if !seen.insert(ino) {
            continue;
        }
        let Some(id) = places.id(ino).filter(|_| ino != InodeId::ROOT) else { continue };
        let names = places.names(ino);
        work.extend(names.iter().map(|k| k.parent).filter(|&p| p != PARKED));
        let names = names.iter().map(|k| (k.parent.0, k.name.to_vec())).collect();
        out.push(SavedObject { ino: ino.0, id: id.0, names });
    }
    out
}

fn save(i: &Inode, places: &Places) -> SavedInode {
    let n = &i.node;
    let entries = n.dir.iter().flat_map(|d| d.entries.iter());
    SavedInode {
        ino: n.id.0,
        attr: n.attr,
        target: n.target.as_deref().unwrap_or_default().to_vec(),
        xattrs: (n.xattrs_lsn != Lsn::NONE || !places.holds(n.id))
            .then(|| n.xattrs.clone())
            .flatten()
            .map(|x| x.into_iter().map(|(k, v)| (k.to_vec(), v)).collect()),
        meta_lsn: n.meta_lsn.0,
        data_lsn: n.data_lsn.0,
        xattrs_lsn: n.xattrs_lsn.0,
        rewriting: n.rewriting.0,
        dirty_since_ns: n.dirty_since_ns,
        base_end: n.base_end,
        cuts: n.cuts.iter().map(|c| (c.0.0, c.1)).collect(),
        complete: !places.holds(n.id),
        entries: entries
            .filter(|(_, e)| e.lsn != Lsn::NONE)
            .map(|(name, e)| SavedEntry { name: name.to_vec(), target: e.target.map(|t| t.0), lsn: e.lsn.0 })
            .collect(),
        parents: n.parents.iter().map(|k| (k.parent.0, k.name.to_vec())).collect(),
        extents: i.map.iter().map(|(start, e)| save_extent(start, e)).collect(),
    }
}

fn save_before(i: &Inode) -> Option<SavedBefore> {
    let b = i.before.as_ref()?;
    Some(SavedBefore {
        ino: i.node.id.0,
        size: b.size,
        blocks: b.blocks,
        mtime: b.mtime,
        data_lsn: b.data_lsn.0,
        since_ns: b.since_ns,
        base_end: b.base_end,
        cuts: b.cuts.iter().map(|c| (c.0.0, c.1)).collect(),
        extents: b.map.iter().map(|(start, e)| save_extent(start, e)).collect(),
    })
}

fn save_extent(start: u64, e: &Extent) -> SavedExtent {
    let source = match e.source {
        Source::Log { segment, record, data } => SavedSource::Log { segment: segment.0, record, data },
        Source::Zero => SavedSource::Zero,
        Source::Damaged => SavedSource::Damaged,
    };
    SavedExtent { start, len: e.len, lsn: e.lsn.0, source }
}
