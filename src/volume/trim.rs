//! What keeps memory bounded however many files a tree has: the clean inodes that the kernel could give
//! back, and the clean names that the backing can tell again.

use super::Volume;
use super::table::Cell;
use crate::types::{InodeId, Kind, Lsn, Name};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Inodes in memory from which the kernel is asked to give some back. About 1 KiB each.
pub const INODES_MAX: usize = 128 << 10;

/// Inodes in memory at most with a small log: at that, nothing new is made.
const INODES_LEAST: usize = 224 << 10;

/// Bytes of log for which one more inode may be in memory.
const LOG_BYTES_EACH: u64 = 8 << 10;

/// Names in memory whose inodes are not, from which directories give up knowing all of theirs.
pub const NAMES_MAX: usize = 256 << 10;

/// An inode that could leave memory if the kernel gave back its references.
#[derive(Clone, Debug)]
pub struct Surplus {
    pub ino: InodeId,
    pub is_dir: bool,
    /// A name by which the kernel may know it.
    pub parent: InodeId,
    pub name: Name,
}

impl Volume {
    /// The inodes beyond seven eighths of `most` that the kernel should give back, if there are more
    /// than `most`: clean ones, not open, longest unused first by the second-chance rule (Corbató 1968: an
    /// inode used since the last search is passed over once).
    pub fn surplus(&self, most: usize) -> Vec<Surplus> {
        let have = self.table.len();
        if have <= most {
            return Vec::new();
        }
        let wanted = have - most / 8 * 7;
        let mut out = Vec::new();
        for c in self.table.all() {
            if out.len() == wanted {
                break;
            }
            if c.id == InodeId::ROOT || c.used.swap(false, Ordering::Relaxed) {
                continue;
            }
            if c.lookups.load(Ordering::Acquire) == 0 {
                self.evict(&c);
            } else if let Some(s) = surplus(&c) {
                out.push(s);
            }
        }
        out
    }

    /// How far the inodes that cannot leave memory, since the backing lacks a part of them or programs
    /// use them, have gone from `INODES_MAX` (0) to the most there may be (1).
    pub fn crowding(&self) -> f64 {
        let most = INODES_LEAST.max((self.wal.pool.limits.capacity / LOG_BYTES_EACH) as usize);
        let over = self.table.len().saturating_sub(INODES_MAX);
        over as f64 / (most - INODES_MAX) as f64
    }

    /// Names in memory whose inodes are not.
    pub fn kept_names(&self) -> usize {
        self.kept_names.load(Ordering::Relaxed).max(0) as usize
    }

    /// Drops names whose inodes are not in memory, from the directories with most of them, if there
    /// are more than `most`; half as many stay. The backing is asked for them when they are needed.
    pub fn trim_names(&self, most: usize) {
        if self.kept_names() <= most {
            return;
        }
        let kept = |c: &Arc<Cell>| c.read().node.dir.as_ref().map_or(0, |d| d.kept);
        let mut dirs: Vec<(usize, Arc<Cell>)> =
            self.table.all().into_iter().map(|c| (kept(&c), c)).filter(|d| d.0 > 0).collect();
        dirs.sort_by_key(|d| std::cmp::Reverse(d.0));
        for (_, c) in dirs {
            if self.kept_names() <= most / 2 {
                return;
            }
            let mut i = c.write();
            // What the backing does not hold it cannot tell.
            if !self.places.read().holds(c.id) {
                continue;
            }
            if let Some(d) = i.node.dir.as_mut().filter(|d| d.complete) {
                self.kept_names.fetch_sub(d.kept as i64, Ordering::Relaxed);
                d.open_up(|ino| self.table.get(ino).is_some());
            }
        }
    }
}

fn surplus(c: &Arc<Cell>) -> Option<Surplus> {
    if c.opens.load(Ordering::Acquire) > 0 {
        return None;
    }
    let i = c.try_read()?;
    if i.node.is_dirty() || !i.map.is_empty() || i.node.is_dead() {
        return None;
    }
    let is_dir = i.node.attr.kind == Kind::Dir;
    if is_dir && i.node.dir.as_ref().is_some_and(|d| d.entries.values().any(|e| e.lsn != Lsn::NONE)) {
        return None;
    }
    let key = i.node.parents.first()?;
    Some(Surplus { ino: c.id, is_dir, parent: key.parent, name: key.name.clone() })
}
