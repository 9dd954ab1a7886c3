//! For undo: before the writeback changes or removes something in the backing, what it was is kept.

use super::Writeback;
use crate::backing::{BackingFile, BackingPath, BackingStat};
use crate::format::kept::Old;
use crate::kept::{OldPiece, Store};
use crate::types::{ByteRange, InodeId, Kind, Lsn};
use crate::volume::Snapshot;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What is copied at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// Removed inodes with changes that the backing never got, of which it is remembered since when.
const GONE_MAX: usize = 1 << 16;

/// What the writeback remembers for undo.
#[derive(Default)]
pub(super) struct Memory {
    /// What was kept of those whose batch failed: content and attributes before these records.
    pub kept: HashMap<InodeId, (Lsn, Lsn)>,
    /// Since when removed inodes had changes.
    gone: HashMap<InodeId, i64>,
    /// When this batch began.
    pub began_ns: i64,
    /// No change that waits is older.
    oldest_ns: i64,
}

impl Memory {
    /// A batch begins: what waited since when.
    pub fn batch(&mut self, now_ns: i64, oldest_ns: Option<i64>, items: &[(i64, InodeId)]) {
        self.began_ns = now_ns;
        self.oldest_ns = items.iter().map(|i| i.0).chain(oldest_ns).fold(now_ns, i64::min);
    }

    /// All of an inode's changes are in the backing.
    pub fn stored(&mut self, ino: InodeId) {
        if self.kept.get(&ino).is_some_and(|k| k.0 != Lsn(u64::MAX)) {
            self.kept.remove(&ino);
        }
    }

    /// An inode that left the queue has no name any more.
    pub fn is_gone(&mut self, ino: InodeId, since_ns: i64) {
        if self.gone.len() < GONE_MAX {
            self.gone.entry(ino).or_insert(since_ns);
        }
    }
}

impl Writeback {
    pub(super) fn keeps(&self) -> bool {
        self.shared.kept.get().is_some()
    }

    fn keeper(&self) -> Option<Arc<Store>> {
        self.shared.kept.get().cloned()
    }

    /// Keeps what the backing has of an inode whose change is about to be stored. Errors: the backing cannot be asked, so it
    /// could not be changed either.
    pub(super) fn keep_changed(&mut self, snap: &Snapshot) -> io::Result<()> {
        let Some(store) = self.keeper() else { return Ok(()) };
        // A batch that failed comes again; what it was at first is what counts.
        if self.memory.kept.get(&snap.ino).is_some_and(|k| k.0 >= snap.data && k.1 >= snap.meta) {
            return Ok(());
        }
        let (id, path) = {
            let places = self.volume.places.read();
            (places.id(snap.ino), places.path(snap.ino).map(BackingPath))
        };
        let (Some(id), Some(path)) = (id, path) else { return Ok(()) };
        let upto = (snap.data, snap.meta);
        match self.volume.backing.stat(&path) {
            Ok(s) if s.id == id => {
                self.keep(&store, snap.ino, &path, &s, upto, snap.since_ns, &changes_of(snap, s.attr.size));
            }
            // Something else stands there or nothing: that is for the store itself to meet.
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        self.memory.kept.insert(snap.ino, upto);
        Ok(())
    }

    /// Notes that an inode is stored for the first time.
    pub(super) fn keep_first(&mut self, snap: &Snapshot) {
        let upto = (snap.data, snap.meta);
        if let Some(store) = self.keeper()
            && self.memory.kept.insert(snap.ino, upto) != Some(upto)
        {
            store.first(snap.ino.0, upto.0.0, upto.1.0);
        }
    }

    /// Keeps what is about to be removed from the backing, or replaced there by another object. A file that has further
    /// names stays. Errors: as for `keep_changed`.
    pub(super) fn keep_removed(&mut self, ino: InodeId, path: &BackingPath) -> io::Result<()> {
        let Some(store) = self.keeper() else { return Ok(()) };
        let all = Lsn(u64::MAX);
        if self.memory.kept.get(&ino) == Some(&(all, all)) {
            return Ok(());
        }
        match self.volume.backing.stat(path) {
            Ok(s) if s.attr.nlink > 1 && s.attr.kind != Kind::Dir => {}
            Ok(s) => {
                let known = self.memory.gone.remove(&ino);
                let known = known.or(self.volume.snapshot(ino).map(|s| s.since_ns).filter(|&t| t > 0));
                let since_ns = known.unwrap_or(self.memory.oldest_ns);
                let whole = [ByteRange { start: 0, end: s.attr.size }];
                self.keep(&store, ino, path, &s, (all, all), since_ns, &whole);
                if self.memory.kept.len() >= GONE_MAX {
                    self.memory.kept.clear();
                }
                self.memory.kept.insert(ino, (all, all));
            }
            // Somebody else removed it meanwhile: as `keep_changed` has it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn keep(
        &self,
        store: &Store,
        ino: InodeId,
        path: &BackingPath,
        stat: &BackingStat,
        upto: (Lsn, Lsn),
        since_ns: i64,
        ranges: &[ByteRange],
    ) {
        let b = &self.volume.backing;
        let lost = |e: &dyn std::fmt::Display| store.lost(ino.0, upto.0.0, upto.1.0, &e.to_string());
        let target = match stat.attr.kind {
            Kind::Symlink => b.readlink(path),
            _ => Ok(Vec::new()),
        };
        let (target, xattrs) = match (target, b.xattrs(path)) {
            (Ok(t), Ok(x)) => (t, x),
            (Err(e), _) | (_, Err(e)) => return lost(&e),
        };
        let old = Old {
            ino: ino.0,
            data: upto.0.0,
            meta: upto.1.0,
            wall_ns: self.volume.clock.wall_ns(),
            since_ns,
            attr: stat.attr,
            target,
            xattrs: xattrs.into_iter().map(|(n, v)| (n.to_vec(), v)).collect(),
        };
        if stat.attr.kind != Kind::File || ranges.iter().all(ByteRange::is_empty) {
            return store.keep_old(old, &mut |_| Ok(()));
        }
        let file = match b.open(path) {
            Ok(f) => f,
            Err(e) => return lost(&e),
        };
        let parts = match parts(&*file, ranges) {
            Ok(p) => p,
            Err(e) => return lost(&e),
        };
        let bytes: u64 = parts.iter().filter(|p| p.1).map(|p| p.0.len()).sum();
        if bytes > store.part_bytes() {
            return lost(&format_args!("{bytes} bytes are more than a quarter of what undo may keep"));
        }
        store.keep_old(old, &mut |sink| {
            parts.iter().try_for_each(|(range, has_data)| match has_data {
                false => sink(OldPiece::Hole { offset: range.start, len: range.len() }),
                true => {
                    copy(&*file, *range, sink)?;
                    // A sign of life.
                    self.volume.given_bytes.fetch_add(range.len(), Ordering::Relaxed);
                    Ok(())
                }
            })
        });
    }
}

/// The ranges of an old content that a change takes away: what it writes, and what it cuts off.
fn changes_of(snap: &Snapshot, old_size: u64) -> Vec<ByteRange> {
    if snap.data == Lsn::NONE || snap.attr.kind != Kind::File {
        return Vec::new();
    }
    let within = |r: ByteRange| ByteRange { start: r.start, end: r.end.min(old_size) };
    let written = snap.pieces.iter().filter(|p| p.source.is_some()).map(|p| within(p.range));
    // What is left of the old content ends at the smaller of the two; behind that all of it goes.
    let left = snap.base_end.min(snap.attr.size);
    let mut out: Vec<ByteRange> =
        written.map(|r| ByteRange { end: r.end.min(left), ..r }).filter(|r| !r.is_empty()).collect();
    if left < old_size {
        out.push(ByteRange { start: left, end: old_size });
    }
    out
}

/// The ranges, cut where a hole begins or ends; true: with data.
fn parts(file: &dyn BackingFile, ranges: &[ByteRange]) -> io::Result<Vec<(ByteRange, bool)>> {
    let mut out = Vec::new();
    for r in ranges {
        let mut at = r.start;
        while at < r.end {
            let data = file.next_data(at)?.unwrap_or(r.end).clamp(at, r.end);
            if data > at {
                out.push((ByteRange { start: at, end: data }, false));
            }
            if data == r.end {
                break;
            }
            let hole = file.next_hole(data)?.clamp(data, r.end);
            if hole <= data {
                // It does not know of holes there.
                out.push((ByteRange { start: data, end: r.end }, true));
                break;
            }
            out.push((ByteRange { start: data, end: hole }, true));
            at = hole;
        }
    }
    Ok(out)
}

fn copy(
    file: &dyn BackingFile,
    range: ByteRange,
    sink: &mut dyn FnMut(OldPiece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = range.start;
    let mut buf = vec![0; range.len().min(PIECE_BYTES) as usize];
    while at < range.end {
        let n = (range.end - at).min(PIECE_BYTES) as usize;
        let mut have = 0;
        while have < n {
            match file.read_at(&mut buf[have..n], at + have as u64)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter meanwhile")),
                k => have += k,
            }
        }
        sink(OldPiece::Bytes { offset: at, bytes: &buf[..n] })?;
        at += n as u64;
    }
    Ok(())
}
