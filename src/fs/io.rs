//! open, read, write, fsync, flush, release, lseek, copy_file_range.

use super::handles::Handle;
use super::{Fs, Told, Who, has_set_id, is_file};
use crate::format::mutation::Mutation;
use crate::types::{How, InodeId, Kind, Lsn};
use crate::volume::{Buffer, Cell, Data, Error, Locked, Result};
use crate::wal::{Class, SyncFailed};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenHow {
    pub writes: bool,
    pub sync: bool,
}

/// Called once when an fsync is done.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// What the kernel reads at once of a file that is read from its start.
const READ_AHEAD: u64 = 128 << 10;
const PAGE: u64 = 4096;

/// Largest piece copied at once by copy_file_range.
const COPY_BYTES: usize = 1 << 20;

impl Fs {
    /// Opens a file; returns the handle.
    pub fn open(&self, who: &Who, ino: InodeId, how: OpenHow) -> Result<u64> {
        if how.writes {
            self.writable()?;
        }
        let cell = self.cell(ino)?;
        if cell.read().node.attr.kind == Kind::Dir {
            return Err(Error::IsDirectory);
        }
        if self.volume.look_anew(&cell) {
            self.tell(ino, Told::Attributes);
        }
        if how.writes {
            self.sample(who, ino, How::Open, 0);
        }
        Ok(self.open_cell(who, cell, how))
    }

    /// Whether the kernel is to keep the pages that it has of a file just opened. Not those of a small file that was
    /// written piece by piece and is now read for the first time: it would ask for every missing page
    /// alone, where one request brings all of them.
    pub fn keeps_pages(&self, fh: u64) -> bool {
        let Ok(h) = self.handles.get(fh) else { return true };
        let alone = h.cell.opens.load(Ordering::Acquire) == 1;
        if h.cell.stale.swap(false, Ordering::AcqRel) {
            return false;
        }
        let small = || h.cell.read().node.attr.size <= READ_AHEAD;
        h.writes || !alone || !h.cell.patchy.load(Ordering::Relaxed) || !small() || {
            h.cell.patchy.store(false, Ordering::Relaxed);
            false
        }
    }

    fn open_cell(&self, who: &Who, cell: Arc<Cell>, how: OpenHow) -> u64 {
        self.handles.open(Handle {
            cell,
            opener: who.client.clone(),
            sync: how.sync,
            writes: how.writes,
            wrote: AtomicBool::new(false),
        })
    }

    /// The handle of a number.
    pub fn handle(&self, fh: u64) -> Result<Arc<Handle>> {
        self.handles.get(fh)
    }

    /// Closes a handle.
    pub fn release(&self, fh: u64) {
        let Some(h) = self.handles.close(fh) else { return };
        self.closes_after_write.fetch_add(h.wrote.load(Ordering::Relaxed) as u64, Ordering::Relaxed);
        if h.cell.opens.load(Ordering::Acquire) == 0 {
            *h.cell.file.lock() = None;
            self.volume.evict(&h.cell);
        }
    }

    /// Closes all handles: the kernel that held them is gone.
    pub fn close_all(&self) {
        self.handles.all().into_iter().for_each(|fh| self.release(fh));
    }

    /// Reads; short only at the end of the file.
    pub fn read(&self, ino: InodeId, offset: u64, len: usize) -> Result<Buffer> {
        let cell = self.cell(ino)?;
        is_file(&cell)?;
        self.volume.read(&cell, offset, len)
    }

    /// Writes `data[*done..]` at `offset + *done`, counting `done` up, so that a second run of a write
    /// that had to wait goes on where the first stopped. Returns how much of `data` is written: less than
    /// all of it at the size of the largest file.
    pub fn write(
        &self,
        who: &Who,
        cell: &Arc<Cell>,
        offset: u64,
        data: &[u8],
        clear_suid: bool,
        done: &mut usize,
    ) -> Result<usize> {
        self.writable()?;
        is_file(cell)?;
        let room = self.limits.file_bytes_max.saturating_sub(offset);
        if room == 0 && !data.is_empty() {
            return Err(Error::FileTooLarge);
        }
        let data = &data[..room.min(data.len() as u64) as usize];
        self.throttle(who, data.len() - *done)?;
        let ino = cell.id;
        let mut had_set_id = false;
        if !offset.is_multiple_of(PAGE) || !(offset + data.len() as u64).is_multiple_of(PAGE) {
            cell.patchy.store(true, Ordering::Relaxed);
        }
        while *done < data.len() {
            let change = self.volume.change(&who.client.slot);
            change.track(cell)?;
            let mut locked = Locked::new(&[cell]);
            had_set_id |= clear_suid && locked.get(ino).is_some_and(|i| has_set_id(&i.node.attr));
            let m = Mutation::Write { ino, offset: offset + *done as u64, clear_suid };
            let rest = Data { bytes: &data[*done..], may_split: true };
            *done += change.commit(&mut locked, &m, rest, Class::Data)?;
        }
        if had_set_id {
            self.set_id_gone(ino);
        }
        who.client.requests.fetch_add(1, Ordering::Relaxed);
        who.client.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.sample(who, ino, How::Write, data.len() as u32);
        Ok(data.len())
    }

    /// Makes an inode, all it depends on, and all that the caller wrote before durable in the log.
    /// `done` is called once, here or on another thread.
    pub fn fsync(&self, who: &Who, ino: InodeId, done: Done) {
        let begin = || -> Result<Arc<Cell>> {
            self.still_ours()?;
            let cell = self.cell(ino)?;
            self.settle(who, &cell)?;
            Ok(cell)
        };
        let cell = match begin() {
            Ok(c) => c,
            Err(e) => return done(Err(e)),
        };
        self.sample(who, ino, How::Fsync, 0);
        let then = Box::new(move |r: std::result::Result<(), SyncFailed>| {
            done(r.map_err(|e| Error::SyncFailed(e.0)))
        });
        self.volume.fsync(&cell, &who.client.slot, then);
    }

    /// A close: what was truncated and written anew is whole now.
    pub fn flush(&self, who: &Who, ino: InodeId) -> Result<()> {
        let cell = self.cell(ino)?;
        self.settle(who, &cell)
    }

    /// As `flush`, of every file: what a sync of everything must not lose.
    pub fn settle_all(&self) -> Result<()> {
        for ino in self.volume.being_rewritten() {
            self.volume.settle_rewriting(ino)?;
        }
        Ok(())
    }

    fn settle(&self, who: &Who, cell: &Arc<Cell>) -> Result<()> {
        if cell.read().node.rewriting == Lsn::NONE {
            return Ok(());
        }
        let change = self.volume.change(&who.client.slot);
        change.track(cell)?;
        let mut locked = Locked::new(&[cell]);
        if locked.get(cell.id).is_some_and(|i| i.node.rewriting == Lsn::NONE) {
            return Ok(());
        }
        let m = Mutation::Settled { ino: cell.id };
        change.commit(&mut locked, &m, Data::NONE, Class::Meta).map(drop)
    }

    /// `SEEK_DATA`, or with `hole` `SEEK_HOLE`.
    pub fn seek(&self, ino: InodeId, offset: u64, hole: bool) -> Result<u64> {
        let cell = self.cell(ino)?;
        is_file(&cell)?;
        self.volume.seek(&cell, offset, hole)
    }

    /// Copies between files without the bytes leaving the gateway. Returns how many were copied;
    /// `done` says how many an earlier run of it copied.
    pub fn copy_range(
        &self,
        who: &Who,
        (from, from_offset): (InodeId, u64),
        (to, to_offset): (InodeId, u64),
        len: u64,
        done: &mut u64,
    ) -> Result<u64> {
        let (src, dst) = (self.cell(from)?, self.cell(to)?);
        is_file(&src)?;
        while *done < len {
            let n = (len - *done).min(COPY_BYTES as u64) as usize;
            let bytes = self.volume.read(&src, from_offset + *done, n)?;
            if bytes.is_empty() {
                break;
            }
            let mut part = 0;
            let r = self.write(who, &dst, to_offset + *done, &bytes, who.uid != 0, &mut part);
            *done += part as u64;
            if r? < bytes.len() {
                break;
            }
        }
        Ok(*done)
    }
}
