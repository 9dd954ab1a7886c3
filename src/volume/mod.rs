//! F3: the volume: log + namespace + extents kept in step over a backing.
//!
//! A change is: resolve (may ask the backing) -> gate -> lock the inodes in id order -> check -> append
//! (may fail, nothing has changed yet) -> apply (cannot fail; recovery calls the same one). The
//! inode locks span append and apply, so for each inode apply order is LSN order.
//!
//! Lock order: commit gate, inode locks by id, then leaves (places and then moves, queue, client slot, segment).

mod apply;
mod buffer;
mod checkpoint;
mod commit;
mod copied;
mod dirty;
mod error;
mod image;
mod load;
mod mend;
mod moves;
mod place;
mod read;
mod recover;
mod rewrite;
mod settle;
mod stored;
mod sync;
mod table;
mod trim;

pub use apply::without_suid;
pub use buffer::Buffer;
pub use commit::{Change, Data};
pub use dirty::DirtyQueue;
pub use error::{Error, Result};
pub use image::{LogImage, read_log};
pub use load::valid_name;
use moves::Moves;
pub use moves::{Ticket, inside};
pub use recover::{Opened, Report};
pub use stored::{Snapshot, SnapshotPiece};
pub use table::{Cell, Inode, Locked};
pub use trim::{INODES_MAX, NAMES_MAX, Surplus};

use crate::backing::Backing;
use crate::backing::fence::Fence;
use crate::namespace::{Place, Places};
use crate::sys::clock::Clock;
use crate::sys::disk::Disk;
use crate::types::InodeId;
use crate::wal::{ClientSlot, Wal};
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use table::Table;

/// First number of inodes made here; the backing's own lie below.
const FIRST_INO: u64 = 1 << 62;

/// A mounted volume.
pub struct Volume {
    pub wal: Arc<Wal>,
    pub backing: Arc<dyn Backing>,
    pub clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    table: Table,
    pub places: RwLock<Places>,
    /// What the writeback is about to put where, oldest first, until what came of it is logged.
    intents: Mutex<Vec<(InodeId, Place)>>,
    /// What the writeback is moving in the backing: who looks there meanwhile does not believe what is said of it.
    pub moves: Moves,
    /// Held for reading by every commit, for writing by the checkpoint's snapshot.
    gate: RwLock<()>,
    pub dirty: DirtyQueue,
    next_ino: AtomicU64,
    recovering: AtomicBool,
    log_id: u128,
    boot: String,
    /// The gateway's own client.
    pub system: Arc<ClientSlot>,
    /// Content bytes in the log that the backing does not have.
    pub dirty_bytes: AtomicI64,
    pub absorbed_bytes: AtomicU64,
    /// Names in memory whose inodes are not (`Dir::kept`).
    kept_names: AtomicI64,
    pub stored_bytes: AtomicU64,
    /// Bytes that were given to the backing, whether it has taken them for good or not: a sign of life.
    pub given_bytes: AtomicU64,
    /// Rung when segments were recycled.
    space: (Mutex<u64>, Condvar),
    /// Held while a checkpoint is taken.
    checkpointing: Mutex<()>,
    /// Held while latched segments are written anew.
    mending: Mutex<()>,
    /// Everything up to here is in the last durable checkpoint.
    checkpointed: AtomicU64,
}

impl Volume {
    /// The inode of this number, if it is in memory.
    pub fn cell(&self, id: InodeId) -> Option<Arc<Cell>> {
        self.table.get(id)
    }
    /// Inodes in memory.
    pub fn inodes(&self) -> usize {
        self.table.len()
    }
    /// A number for a new inode.
    pub fn new_ino(&self) -> InodeId {
        InodeId(self.next_ino.fetch_add(1, Ordering::Relaxed))
    }
    /// A number by which the log is known to others, who must not learn its identity.
    pub fn log_tag(&self) -> u64 {
        crate::format::frame::public_tag(self.log_id)
    }
    /// By whom the backing was taken over, once it was: nothing is stored there any more.
    pub fn lost_to(&self) -> Option<String> {
        self.backing.fence().and_then(Fence::lost_to)
    }
    /// Whether it was taken over; cheap.
    pub fn is_lost(&self) -> bool {
        self.backing.fence().is_some_and(Fence::is_lost)
    }
    /// Content bytes that the backing does not have.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes.load(Ordering::Relaxed).max(0) as u64
    }

    /// Waits until segments were recycled or the time is up. Returns true if some were.
    pub fn wait_for_space(&self, at_most: std::time::Duration) -> bool {
        let (m, c) = &self.space;
        let mut g = m.lock();
        let before = *g;
        c.wait_for(&mut g, at_most);
        *g != before
    }

    /// Segments came back: wakes those who wait for space.
    pub fn space_freed(&self) {
        let (m, c) = &self.space;
        *m.lock() += 1;
        c.notify_all();
    }
}
