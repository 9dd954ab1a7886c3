//! Open handles.

use super::Client;
use crate::volume::{Cell, Error, Result};
use dashmap::DashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An open file.
pub struct Handle {
    pub cell: Arc<Cell>,
    /// Who opened it: the client of writes whose process is not known.
    pub opener: Arc<Client>,
    /// Each write returns only when durable (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
    pub writes: bool,
    /// Something was written through it.
    pub wrote: AtomicBool,
}

/// All open handles.
#[derive(Default)]
pub(super) struct Handles {
    open: DashMap<u64, Arc<Handle>>,
    next: AtomicU64,
}

impl Handles {
    pub fn open(&self, h: Handle) -> u64 {
        h.cell.opens.fetch_add(1, Ordering::AcqRel);
        h.cell.used.store(true, Ordering::Relaxed);
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.insert(id, Arc::new(h));
        id
    }
    pub fn get(&self, id: u64) -> Result<Arc<Handle>> {
        self.open.get(&id).map(|h| h.clone()).ok_or(Error::BadHandle)
    }
    /// Closes it; returns the handle if it was open.
    pub fn close(&self, id: u64) -> Option<Arc<Handle>> {
        let (_, h) = self.open.remove(&id)?;
        h.cell.opens.fetch_sub(1, Ordering::AcqRel);
        Some(h)
    }
    pub fn len(&self) -> usize {
        self.open.len()
    }
    /// Numbers of all open handles.
    pub fn all(&self) -> Vec<u64> {
        self.open.iter().map(|h| *h.key()).collect()
    }
}
