//! The inodes in memory, and locking several of them without deadlock: always in the order of ids.

use super::rewrite::Before;
use crate::backing::BackingFile;
use crate::extents::Map;
use crate::namespace::Node;
use crate::types::InodeId;
use dashmap::DashMap;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// An inode and its content's map, under one lock.
pub struct Inode {
    pub node: Node,
    pub map: Map,
    /// What it was before it was truncated, while it is written anew.
    pub before: Option<Box<Before>>,
}

/// An inode in memory.
pub struct Cell {
    pub id: InodeId,
    /// References the kernel holds.
    pub lookups: AtomicU64,
    /// Open handles.
    pub opens: AtomicU32,
    /// Looked up or opened since the last search for what to drop.
    pub used: AtomicBool,
    /// Written in parts of pages since it was opened for reads: the kernel keeps whole pages only.
    pub patchy: AtomicBool,
    /// The names of this directory were asked for once (`Volume::learn_names`).
    pub listed: AtomicBool,
    /// Something else changed its content in the backing: what the kernel keeps of it is stale.
    pub stale: AtomicBool,
    /// The checkpoint or a record since then says who it is.
    pub tracked: AtomicBool,
    /// Counts the names of it that were found in the backing.
    pub found: AtomicU32,
    inner: RwLock<Inode>,
    /// The backing's file, opened by the first read that needs it.
    pub file: Mutex<Option<Arc<dyn BackingFile>>>,
}

impl Cell {
    pub fn new(node: Node) -> Arc<Cell> {
        Arc::new(Cell {
            id: node.id,
            lookups: AtomicU64::new(0),
            opens: AtomicU32::new(0),
            used: AtomicBool::new(true),
            patchy: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            tracked: AtomicBool::new(false),
            found: AtomicU32::new(0),
            inner: RwLock::new(Inode { node, map: Map::default(), before: None }),
            file: Mutex::new(None),
        })
    }
    pub fn read(&self) -> RwLockReadGuard<'_, Inode> {
        self.inner.read()
    }
    /// As `read`, without waiting.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, Inode>> {
        self.inner.try_read()
    }
    pub fn write(&self) -> RwLockWriteGuard<'_, Inode> {
        self.inner.write()
    }
    /// True if it is surely clean; false too when someone holds its lock.
    pub fn try_clean(&self) -> bool {
        self.inner.try_read().is_some_and(|i| !i.node.is_dirty() && i.map.is_empty())
    }
}

/// Several inodes, locked.
pub struct Locked<'a> {
    held: SmallVec<[(InodeId, RwLockWriteGuard<'a, Inode>); 4]>,
}

impl<'a> Locked<'a> {
    /// Locks all of them, in the order of ids, each once.
    pub fn new(cells: &[&'a Arc<Cell>]) -> Locked<'a> {
        let mut order: SmallVec<[&'a Arc<Cell>; 6]> = cells.iter().copied().collect();
        order.sort_by_key(|c| c.id);
        order.dedup_by_key(|c| c.id);
        Locked { held: order.into_iter().map(|c| (c.id, c.write())).collect() }
    }

    /// The inode, if it is among the locked ones.
    pub fn get(&self, id: InodeId) -> Option<&Inode> {
        self.held.iter().find(|h| h.0 == id).map(|h| &*h.1)
    }

    /// As `get`, to change it.
    pub fn get_mut(&mut self, id: InodeId) -> Option<&mut Inode> {
        self.held.iter_mut().find(|h| h.0 == id).map(|h| &mut *h.1)
    }
}

/// All inodes in memory.
#[derive(Default)]
pub struct Table {
    cells: DashMap<InodeId, Arc<Cell>>,
}

impl Table {
    pub fn get(&self, id: InodeId) -> Option<Arc<Cell>> {
        self.cells.get(&id).map(|c| c.clone())
    }
    /// Inserts it unless the id is there already; returns the one that is there now.
    pub fn insert(&self, cell: Arc<Cell>) -> Arc<Cell> {
        self.cells.entry(cell.id).or_insert(cell).clone()
    }
    /// Adds a kernel reference if `cell` is still the one in the table.
    pub fn hold(&self, cell: &Arc<Cell>) -> bool {
        match self.cells.get(&cell.id) {
            Some(c) if Arc::ptr_eq(&c, cell) => {
                c.lookups.fetch_add(1, Ordering::AcqRel);
                c.used.store(true, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }
    pub fn remove(&self, id: InodeId) {
        self.cells.remove(&id);
    }
    /// Removes it if `still` holds; atomic against `get`.
    pub fn remove_if(&self, id: InodeId, still: impl FnOnce(&Arc<Cell>) -> bool) -> bool {
        self.cells.remove_if(&id, |_, c| still(c)).is_some()
    }
    pub fn all(&self) -> Vec<Arc<Cell>> {
        self.cells.iter().map(|c| c.clone()).collect()
    }
    pub fn len(&self) -> usize {
        self.cells.len()
    }
}
