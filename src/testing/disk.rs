//! A disk in memory that knows what was synced. A power cut keeps that, and of the rest whatever the
//! dice say: each unsynced write whole, torn at a 512-byte sector, or not at all, in any order.

use super::dice::Dice;
use super::plug::{Plug, Trouble};
use crate::sys::disk::{Disk, DiskFile};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

const SECTOR: usize = 512;

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Since the last sync: (offset, bytes).
    unsynced: Vec<(usize, Vec<u8>)>,
}

struct SimFile {
    content: Mutex<Content>,
    plug: Arc<Plug>,
}

type Names = BTreeMap<String, Arc<SimFile>>;

#[derive(Default)]
struct Folder {
    now: Names,
    /// States of the folder since the last sync of it, that one first.
    history: Vec<Names>,
}

/// See the module.
pub struct SimDisk {
    folder: Mutex<Folder>,
    plug: Arc<Plug>,
    /// Bytes that files may take.
    size: u64,
}

impl SimDisk {
    pub fn new(plug: Arc<Plug>, size: u64) -> SimDisk {
        let folder = Folder { now: Names::new(), history: vec![Names::new()] };
        SimDisk { folder: Mutex::new(folder), plug, size }
    }

    /// The power goes: what was not synced is lost, kept or torn.
    pub fn cut_power(&self, dice: &mut Dice) {
        let mut f = self.folder.lock();
        let at = dice.below(f.history.len() as u64 + 1) as usize;
        let kept = f.history.get(at).cloned().unwrap_or_else(|| f.now.clone());
        f.history = vec![kept.clone()];
        f.now = kept;
        for file in f.now.values() {
            let mut c = file.content.lock();
            let mut disk = std::mem::take(&mut c.synced);
            for (at, bytes) in std::mem::take(&mut c.unsynced) {
                let part = match dice.below(3) {
                    0 => 0,
                    1 => bytes.len(),
                    _ => {
                        let sectors = bytes.len().div_ceil(SECTOR) as u64;
                        (dice.below(sectors + 1) as usize * SECTOR).min(bytes.len())
                    }
                };
                put(&mut disk, at, &bytes[..part]);
            }
            c.now = disk.clone();
            c.synced = disk;
        }
    }

    /// Flips one bit of a file. False: there is no such byte.
    pub fn flip(&self, name: &str, byte: usize, bit: u8) -> bool {
        let f = self.folder.lock();
        let Some(file) = f.now.get(name) else { return false };
        let mut c = file.content.lock();
        let mut hit = false;
        if let Some(b) = c.now.get_mut(byte) {
            *b ^= 1 << bit;
            hit = true;
        }
        if let Some(b) = c.synced.get_mut(byte) {
            *b ^= 1 << bit;
        }
        hit
    }

    /// Bytes written, to files that are still there, that no sync has brought to the device.
    pub fn unsynced_bytes(&self) -> u64 {
        let f = self.folder.lock();
        f.now.values().map(|s| s.content.lock().unsynced.iter().map(|w| w.1.len() as u64).sum::<u64>()).sum()
    }

    fn used(f: &Folder) -> u64 {
        f.now.values().map(|s| s.content.lock().now.len() as u64).sum()
    }

    fn change<T>(&self, f: impl FnOnce(&mut Names) -> io::Result<T>) -> io::Result<T> {
        self.plug.pass(Trouble::Disk)?;
        let mut folder = self.folder.lock();
        let before = folder.now.clone();
        let out = f(&mut folder.now)?;
        folder.history.push(before);
        Ok(out)
    }
}

fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if to.len() < at + bytes.len() {
        to.resize(at + bytes.len(), 0);
    }
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Disk for SimDisk {
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        if size > self.free_bytes()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let plug = self.plug.clone();
        self.change(|names| {
            if names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let zeros = vec![0; size as usize];
            let content = Content { now: zeros.clone(), synced: zeros, unsynced: Vec::new() };
            let file = Arc::new(SimFile { content: Mutex::new(content), plug });
            names.insert(name.to_owned(), file.clone());
            Ok(file as Arc<dyn DiskFile>)
        })
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        match self.folder.lock().now.get(name) {
            Some(f) => Ok(f.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|names| names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|names| {
            let f = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            names.insert(to.to_owned(), f);
            Ok(())
        })
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let f = self.folder.lock();
        Ok(f.now.iter().map(|(n, s)| (n.clone(), s.content.lock().now.len() as u64)).collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.plug.pass(Trouble::Disk)?;
        let mut f = self.folder.lock();
        f.history = vec![f.now.clone()];
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.size.saturating_sub(Self::used(&self.folder.lock())))
    }
}

impl DiskFile for SimFile {
    fn write_all_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.plug.pass(Trouble::Disk)?;
        let bytes = bufs.concat();
        let mut c = self.content.lock();
        put(&mut c.now, offset as usize, &bytes);
        c.unsynced.push((offset as usize, bytes));
        Ok(())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buf, offset)? < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let c = self.content.lock();
        let from = (offset as usize).min(c.now.len());
        let n = buf.len().min(c.now.len() - from);
        buf[..n].copy_from_slice(&c.now[from..from + n]);
        Ok(n)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.plug.pass(Trouble::Disk)?;
        let fate = self.plug.fate_of_a_sync();
        let mut c = self.content.lock();
        for (at, bytes) in std::mem::take(&mut c.unsynced) {
            // After a failed sync the pages count as clean, whether the device has them or not.
            if fate.brings(&bytes) {
                put(&mut c.synced, at, &bytes);
            }
        }
        fate.answer()
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut c = self.content.lock();
        let mut now = c.synced.clone();
        for (at, bytes) in &c.unsynced {
            put(&mut now, *at, bytes);
        }
        c.now = now;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().now.len() as u64)
    }

    fn fill_zero(&self, len: u64) -> io::Result<()> {
        self.write_all_at(&[&vec![0; len as usize]], 0)
    }
}
