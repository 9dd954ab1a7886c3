//! The log's disk, with what retires kept beside it.

use super::Store;
use crate::sys::disk::{Disk, DiskFile, RealDisk};
use crate::types::Lsn;
use std::io;
use std::sync::Arc;

/// A disk that keeps retired segments.
pub struct KeepingDisk {
    log: RealDisk,
    store: Arc<Store>,
}

impl KeepingDisk {
    pub fn new(log: RealDisk, store: Arc<Store>) -> KeepingDisk {
        KeepingDisk { log, store }
    }
}

impl Disk for KeepingDisk {
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.log.create(name, size)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.log.open(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.log.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.log.rename(from, to)
    }
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.log.list()
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.log.sync_dir()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.log.free_bytes()
    }
    fn keep(&self, name: &str, generation: u32, end: u32, last: Lsn) -> bool {
        self.store.take(&self.log, name, generation, end, last)
    }
    fn kept_bytes(&self) -> u64 {
        self.store.bytes()
    }
    fn give_up(&self, bytes: u64) -> u64 {
        self.store.give_up(bytes)
    }
}
