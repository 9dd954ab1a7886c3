//! Opening a log: checkpoint, scan, verify, apply through the same code as live writes, go on.
//! Nothing is changed before a new checkpoint is durable, so that recovery may be killed at any time.

use super::apply::{At, Content};
use super::checkpoint::FILE;
use super::image::{LogImage, durable_at, is_past, neighbours, read_log};
use super::table::{Cell, Table};
use super::{DirtyQueue, FIRST_INO, Moves, Volume};
use crate::backing::{Backing, BackingPath};
use crate::format::checkpoint::{Checkpoint, SavedSource};
use crate::format::mutation::{EntryKey, Mutation};
use crate::namespace::{Node, Places};
use crate::sys::clock::Clock;
use crate::sys::disk::Disk;
use crate::types::{BackingId, ClientId, InodeId, Lsn, Pos, SegmentId};
use crate::wal::mend;
use crate::wal::pool::file_name;
use crate::wal::scan::{Damage, Found, HEADER_LOST, Scan};
use crate::wal::{ClientSlot, PoolLimits, Wal};
use parking_lot::{Mutex, RwLock};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Most numbers that can have been given out since a checkpoint.
const STRAY_GENERATIONS: u32 = 1 << 24;
const STRAY_LSNS: u64 = 1 << 40;

/// What recovery found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The log was empty.
    pub fresh: bool,
    /// Records applied.
    pub replayed: u64,
    /// Records left out since something they depend on was lost with the power.
    pub dropped: u64,
    pub damage: Vec<Damage>,
    /// One of the checkpoint's two files could not be read; the other was.
    pub checkpoint_damage: Option<String>,
    pub torn_bytes: u64,
}

/// An opened volume.
pub struct Opened {
    pub volume: Arc<Volume>,
    pub report: Report,
}

/// One record, ready to be applied.
pub(super) struct Replayable {
    pub segment: SegmentId,
    pub found: Found,
    pub mutation: Mutation,
    pub durable: bool,
}

impl Volume {
    /// Opens the log in `disk` before `backing`. Errors: one line for people.
    pub fn open(
        disk: Arc<dyn Disk>,
        backing: Arc<dyn Backing>,
        clock: Arc<dyn Clock>,
        limits: PoolLimits,
        boot: &str,
        new_log_id: u128,
    ) -> Result<Opened, String> {
        let mut image = read_log(&*disk)?;
        let fresh = image.checkpoint.is_none();
        if fresh && !image.scans.is_empty() {
            return Err(format!(
                "the log has segments but no {FILE}: it is not whole; look with `forelog fsck`"
            ));
        }
        let ckpt = image.checkpoint.take().unwrap_or_else(|| Checkpoint {
            log: new_log_id,
            backing: backing.describe(),
            next_ino: FIRST_INO,
            next_generation: 1,
            ..Checkpoint::default()
        });
        if ckpt.backing != backing.describe() {
            return Err(format!(
                "this log belongs to the backing {}; mount that, or name another --log-dir; if it was moved, \
                 let it stand there again (`mount --bind`)",
                ckpt.backing
            ));
        }
        let root =
            backing.stat(&BackingPath::root()).map_err(|e| format!("backing {}: {e}", backing.describe()))?;
        let mut report = Report {
            fresh,
            checkpoint_damage: image.checkpoint_damage.take(),
            damage: image.damage.clone(),
            ..Report::default()
        };
        let volume = Arc::new(assemble(disk, backing, clock, limits, boot, &ckpt, root, &image)?);
        volume.load_checkpoint(&ckpt);
        let (records, lost) = collect(image, &ckpt, &mut report)?;
        volume.replay_all(records, &lost, &ckpt, ckpt.boot == boot, &mut report);
        volume
            .recognize_copy()
            .and_then(|()| volume.finish_recovery())
            .map_err(|e| format!("asking the backing {} failed: {e}", volume.backing.describe()))?;
        volume.checkpoint().map_err(|e| format!("writing the log failed: {e}"))?;
        if let Err(e) = volume.wal.pool.fill_spare() {
            log::warn!(
                "making the log's headroom failed: {e}; deletes and the drain may have to wait for space"
            );
        }
        Ok(Opened { volume, report })
    }

    fn replay_all(
        &self,
        records: Vec<Replayable>,
        lost: &[(Lsn, Lsn)],
        ckpt: &Checkpoint,
        same_boot: bool,
        report: &mut Report,
    ) {
        let mut applied: HashSet<Lsn> = HashSet::with_capacity(records.len());
        for r in records {
            if let Mutation::Create { ino, .. }
            | Mutation::Whiteout { white: ino, .. }
            | Mutation::Adopt { ino, .. } = &r.mutation
            {
                // Numbers are never given out twice, not even those of records that are left out.
                self.next_ino.fetch_max(ino.0 + 1, Ordering::Relaxed);
            }
            let lsn = r.found.header.lsn;
            let there =
                |p: &Lsn| p.0 <= ckpt.lsn || applied.contains(p) || lost.iter().any(|g| g.0 < *p && *p < g.1);
            let sound = r.found.predecessors.iter().all(there) && r.usable();
            if sound {
                self.learn(&r.mutation);
            }
            if !sound || !self.check(&r.mutation) {
                log::warn!("record {lsn} is left out: what it depends on was lost");
                report.dropped += 1;
                continue;
            }
            applied.insert(lsn);
            let content = matches!(r.mutation, Mutation::Write { .. })
                .then(|| self.wal.pool.get(r.segment))
                .flatten()
                .map(|segment| Content {
                    segment,
                    record_at: r.found.record_at,
                    data_at: r.found.record_at + r.found.header.data_at() as u32,
                    len: r.found.header.data_bytes as u64,
                    sound: r.found.data_sound,
                });
            let h = &r.found.header;
            let end = r.found.record_at + h.frame_bytes() as u32;
            let pos = Pos { segment: r.segment, generation: h.generation, end, lsn };
            self.replay(&r.mutation, &At { pos, wall_ns: h.wall_ns, content }, &r.found.data);
            report.replayed += 1;
        }
        if !same_boot {
            report.dropped += self.take_back();
        }
    }

    /// A name that a record removes, and of which nothing newer than the checkpoint is known, is one
    /// that the backing holds: names on which both agreed are in no checkpoint.
    fn learn(&self, m: &Mutation) {
        let known = |k: &EntryKey, ino: InodeId| {
            if let Some(c) = self.table.get(k.parent)
                && let Some(d) = &mut c.write().node.dir
                && !d.complete
                && !d.entries.contains_key(&k.name)
            {
                d.found(&k.name, ino);
                let mut places = self.places.write();
                if let Some(id) = places.id(ino) {
                    places.set(ino, id, k);
                }
            }
        };
        match m {
            Mutation::Unlink { at, ino } | Mutation::Rmdir { at, ino } => known(at, *ino),
            Mutation::Rename { from, to, ino, replaced }
            | Mutation::Whiteout { from, to, ino, replaced, .. } => {
                known(from, *ino);
                if let Some(r) = replaced {
                    known(to, *r);
                }
            }
            Mutation::Exchange { a, b, ino_a, ino_b } => {
                known(a, *ino_a);
                known(b, *ino_b);
            }
            _ => {}
        }
    }

    /// Whether a record that survived still makes sense: what versions of entries cannot say.
    fn check(&self, m: &Mutation) -> bool {
        let target = |k: &EntryKey| {
            self.table.get(k.parent).map(|c| {
                let i = c.read();
                i.node.dir.as_ref().and_then(|d| d.entries.get(&k.name)).and_then(|e| e.target)
            })
        };
        let empty = |ino: InodeId| {
            self.table.get(ino).is_none_or(|c| {
                let i = c.read();
                i.node.dir.as_ref().is_none_or(|d| d.entries.values().all(|e| e.target.is_none()))
            })
        };
        match m {
            Mutation::Create { at, .. } | Mutation::Link { at, .. } => target(at) == Some(None),
            Mutation::Unlink { at, ino } => target(at) == Some(Some(*ino)),
            Mutation::Rmdir { at, ino } => target(at) == Some(Some(*ino)) && empty(*ino),
            Mutation::Rename { from, to, ino, replaced }
            | Mutation::Whiteout { from, to, ino, replaced, .. } => {
                target(from) == Some(Some(*ino))
                    && target(to) == Some(*replaced)
                    && replaced.is_none_or(empty)
            }
            Mutation::Exchange { a, b, ino_a, ino_b } => {
                target(a) == Some(Some(*ino_a)) && target(b) == Some(Some(*ino_b))
            }
            _ => true,
        }
    }

    /// After the last record: settles where moved things are, drops what no name leads to.
    fn finish_recovery(&self) -> std::io::Result<()> {
        self.settle()?;
        self.recovering.store(false, Ordering::Release);
        for c in self.table.all() {
            let mut i = c.write();
            if i.node.is_dead() && c.id != InodeId::ROOT {
                self.drop_content(&mut i);
                drop(i);
                self.table.remove(c.id);
            }
        }
        Ok(())
    }
}

impl Replayable {
    /// Its data part is whole, or the loss of it can be told to readers.
    fn usable(&self) -> bool {
        self.found.data_sound || (self.durable && matches!(self.mutation, Mutation::Write { .. }))
    }
}

/// LSN ranges that damage took out of a segment: their successors are sound.
fn lost_ranges(s: &Scan, ckpt: &Checkpoint, out: &mut Vec<(Lsn, Lsn)>) {
    for d in s.damage.iter().filter(|d| d.what == HEADER_LOST && !is_past(d, s, ckpt)) {
        let (before, after) = neighbours(d, s);
        out.push((before.unwrap_or(Lsn::NONE).max(Lsn(ckpt.lsn)), after.unwrap_or(Lsn(u64::MAX))));
    }
}

#[allow(clippy::too_many_arguments)]
fn assemble(
    disk: Arc<dyn Disk>,
    backing: Arc<dyn Backing>,
    clock: Arc<dyn Clock>,
    limits: PoolLimits,
    boot: &str,
    ckpt: &Checkpoint,
    root: crate::backing::BackingStat,
    image: &LogImage,
) -> Result<Volume, String> {
    let last = image
        .scans
        .iter()
        .flat_map(|s| s.3.records.iter().map(|r| r.header.lsn))
        .max()
        .unwrap_or_default()
        .max(Lsn(ckpt.lsn));
    // What a power cut undid may lie about in segments that count as free: with numbers given out twice it would
    // come back with the next scan. Numbers out of all reason are some program's data.
    let strays = || {
        let all = image.scans.iter().flat_map(|s| &s.3.strays);
        all.filter(|s| {
            s.0 < ckpt.next_generation.saturating_add(STRAY_GENERATIONS) && s.1.0 < ckpt.lsn + STRAY_LSNS
        })
    };
    let last = strays().map(|s| s.1).max().unwrap_or_default().max(last);
    let headers =
        image.scans.iter().filter_map(|s| s.3.header).filter(|h| h.log == ckpt.log).map(|h| h.generation);
    let next_generation =
        strays().map(|s| s.0).chain(headers).map(|g| g + 1).max().unwrap_or(0).max(ckpt.next_generation);
    let wal = Wal::new(disk.clone(), clock.clone(), ckpt.log, limits, last, next_generation);
    let used: HashSet<u32> = ckpt
        .inodes
        .iter()
        .flat_map(|i| i.extents.iter())
        .chain(ckpt.rewritten.iter().flat_map(|b| b.extents.iter()))
        .filter_map(|e| match e.source {
            SavedSource::Log { segment, .. } => Some(segment),
            _ => None,
        })
        .collect();
    let files = disk.list().map_err(|e| format!("listing the log failed: {e}"))?;
    let marked = mend::marked(&files);
    for (id, size, file, s) in &image.scans {
        let mut file = file.clone();
        let max = s.records.iter().map(|r| r.header.lsn).max().unwrap_or_default();
        let generation =
            s.header.map(|h| h.generation).or(s.records.first().map(|r| r.header.generation)).unwrap_or(0);
        // The file of another log, or one that nothing needs, is free to be used anew.
        let ours = s.header.is_none_or(|h| h.log == ckpt.log);
        let needed = ours && (max.0 > ckpt.lsn || used.contains(&id.0));
        if needed {
            // A gateway that was killed may have left it in the page cache only; from here on it counts
            // as durable.
            file = mend::settle(&*disk, *id, &file, marked.contains(id))
                .map_err(|e| format!("syncing log segment {} failed: {e}; check the log's disk", id.0))?;
        } else if marked.contains(id) {
            mend::unmark(&*disk, *id).map_err(|e| format!("removing a mark from the log failed: {e}"))?;
        }
        // What retired and was not taken out of the log before the gateway ended.
        let past = !needed && ours && s.header.is_some() && max != Lsn::NONE;
        if past && disk.keep(&file_name(*id), generation, s.end, max) {
            continue;
        }
        wal.adopt(*id, *size as u32, file, generation, s.version, needed.then_some((s.end, max)));
    }
    let mut places = Places::new(root.id);
    places.load_numbers(ckpt.numbers.iter().map(|n| (BackingId(n.0), InodeId(n.1))));
    let table = Table::default();
    table.insert(Cell::new(Node::new(InodeId::ROOT, root.attr)));
    let next_ino = places.numbers().map(|n| n.1.0 + 1).max().unwrap_or(0).max(ckpt.next_ino);
    for (name, _) in files.iter().filter(|f| mend::is_temporary(&f.0)) {
        mend::remove(&*disk, name).map_err(|e| format!("removing {name} from the log failed: {e}"))?;
    }
    disk.sync_dir().map_err(|e| format!("syncing the log directory failed: {e}"))?;
    Ok(Volume {
        wal: Arc::new(wal),
        backing,
        clock,
        disk,
        table,
        places: RwLock::new(places),
        intents: Mutex::default(),
        moves: Moves::default(),
        gate: RwLock::new(()),
        dirty: DirtyQueue::default(),
        next_ino: AtomicU64::new(next_ino.max(FIRST_INO)),
        recovering: AtomicBool::new(true),
        log_id: ckpt.log,
        boot: boot.to_owned(),
        system: Arc::new(ClientSlot::new(ClientId(0), 0)),
        dirty_bytes: AtomicI64::new(0),
        absorbed_bytes: AtomicU64::new(0),
        kept_names: AtomicI64::new(0),
        stored_bytes: AtomicU64::new(0),
        given_bytes: AtomicU64::new(0),
        space: Default::default(),
        checkpointing: Mutex::new(()),
        mending: Mutex::new(()),
        checkpointed: AtomicU64::new(ckpt.lsn),
    })
}

/// The records to replay in their order, and the ranges that damage took.
type Collected = (Vec<Replayable>, Vec<(Lsn, Lsn)>);

fn collect(image: LogImage, ckpt: &Checkpoint, report: &mut Report) -> Result<Collected, String> {
    let (mut out, mut lost) = (Vec::new(), Vec::new());
    for (id, _, _, s) in image.scans {
        if s.header.is_some_and(|h| h.log != ckpt.log) {
            continue;
        }
        report.torn_bytes += s.torn as u64;
        lost_ranges(&s, ckpt, &mut lost);
        let known = durable_at(&s, id, ckpt);
        let durable = s.records.iter().map(|r| r.header.durable).max().unwrap_or(0).max(known);
        for found in s.records {
            if found.header.lsn.0 <= ckpt.lsn {
                continue;
            }
            let mutation = Mutation::decode(found.header.kind, &found.body).map_err(|e| {
                format!("record {}: {e}; was it written by a newer forelog?", found.header.lsn)
            })?;
            let end = found.record_at + found.header.frame_bytes() as u32;
            out.push(Replayable { segment: id, found, mutation, durable: end <= durable });
        }
    }
    out.sort_by_key(|r| r.found.header.lsn);
    Ok((out, lost))
}
