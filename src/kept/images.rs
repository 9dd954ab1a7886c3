//! Files of old contents: what the backing held, written before it is changed there.

use super::{Item, Store, images_name};
use crate::format::kept::{DATA_BYTES_MAX, Entry, Old, VERSION, encode};
use crate::sys::disk::{Disk, DiskFile, RealDisk};
use crate::types::Lsn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A file is closed at this size, or at this share of the room or the window: only closed ones can be given up.
const FILE_BYTES_MAX: u64 = 32 << 20;
const SHARE: u64 = 8;
/// Largest part of the room that one object's old content may take.
const PART: u64 = 4;

/// A piece of an old content.
pub enum OldPiece<'a> {
    Bytes { offset: u64, bytes: &'a [u8] },
    Hole { offset: u64, len: u64 },
}

/// The file that is being written.
pub(super) struct Writer {
    next: u64,
    file: Option<(Arc<dyn DiskFile>, String)>,
    at: u64,
    began_ns: i64,
}

impl Writer {
    pub(super) fn after(next: u64) -> Writer {
        Writer { next, file: None, at: 0, began_ns: 0 }
    }

    /// Begins a file.
    pub(super) fn start(&mut self, dir: &RealDisk, now_ns: i64) -> io::Result<()> {
        let name = images_name(self.next);
        self.next += 1;
        let f = dir.create(&name, 0)?;
        (self.file, self.at, self.began_ns) = (Some((f, name)), 0, now_ns);
        self.put(&Entry::Begin { version: VERSION, wall_ns: now_ns }, &[]).map(drop)
    }

    fn put(&mut self, entry: &Entry, data: &[u8]) -> io::Result<u64> {
        let Some((f, _)) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let head = encode(entry, data);
        f.write_all_at(&[&head, data], self.at)?;
        let n = (head.len() + data.len()) as u64;
        self.at += n;
        Ok(n)
    }

    /// Closes the file: it can be given up from now on.
    fn close(&mut self, store: &Store, now_ns: i64) {
        if let Some((_, name)) = self.file.take() {
            // A longer try may have been written over.
            store.dir.cut(&name, self.at).unwrap_or_else(|e| log::debug!("undo: cutting {name}: {e}"));
            let item = Item { name, bytes: self.at, newest_ns: now_ns, last: Lsn::NONE };
            store.state.lock().items.push(item);
        }
    }

    /// Begins another file when this one has got large or old.
    pub(super) fn rotate(&mut self, store: &Store, room: u64, now_ns: i64) {
        let share = store.window_ns / SHARE as i64;
        let old = now_ns.saturating_sub(self.began_ns) > share || now_ns < self.began_ns;
        let large = self.at > FILE_BYTES_MAX.min(room / SHARE).max(64 << 10);
        if self.file.is_some() && !old && !large {
            return;
        }
        self.close(store, now_ns);
        if let Err(e) = self.start(&store.dir, now_ns) {
            log::debug!("undo: a new file for old contents: {e}");
        }
    }

    /// Closes it for good.
    pub(super) fn end(&mut self, store: &Store) -> io::Result<()> {
        self.close(store, store.clock.wall_ns());
        Ok(())
    }
}

/// What feeds the pieces of an old content.
pub type Pieces<'a> = &'a mut dyn FnMut(&mut dyn FnMut(OldPiece<'_>) -> io::Result<()>) -> io::Result<()>;

impl Store {
    /// Most bytes of one object's old content.
    pub fn part_bytes(&self) -> u64 {
        self.room.load(Ordering::Relaxed) / PART
    }

    /// Keeps what the backing holds of an object, before it changes there. What cannot be kept is noted as lost, so that
    /// nobody takes something else for it.
    pub fn keep_old(&self, old: Old, pieces: Pieces<'_>) {
        let mut w = self.writer.lock();
        w.rotate(self, self.room.load(Ordering::Relaxed), self.clock.wall_ns());
        let (ino, data, meta, wall_ns) = (old.ino, old.data, old.meta, old.wall_ns);
        let before = w.at;
        let mut written = || -> io::Result<()> {
            w.put(&Entry::Old(old.clone()), &[])?;
            pieces(&mut |p| match p {
                OldPiece::Hole { offset, len } => w.put(&Entry::Hole { offset, len }, &[]).map(drop),
                OldPiece::Bytes { offset, bytes } => {
                    let mut at = offset;
                    for part in bytes.chunks(DATA_BYTES_MAX) {
                        w.put(&Entry::Bytes { offset: at }, part)?;
                        at += part.len() as u64;
                    }
                    Ok(())
                }
            })?;
            w.put(&Entry::Done, &[]).map(drop)
        };
        let mut r = written();
        if r.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::StorageFull) && self.give_up(1 << 20) > 0 {
            w.at = before;
            r = self.again(&mut w, &old, pieces);
        }
        if let Err(e) = r {
            // Written over: an entry without its end would say nothing.
            w.at = before;
            self.put_lost(&mut w, ino, data, meta, wall_ns, &e.to_string());
        }
        self.bytes.fetch_add(w.at.saturating_sub(before), Ordering::Relaxed);
        drop(w);
        self.shrink();
    }

    fn again(&self, w: &mut Writer, old: &Old, pieces: Pieces<'_>) -> io::Result<()> {
        w.put(&Entry::Old(old.clone()), &[])?;
        pieces(&mut |p| match p {
            OldPiece::Hole { offset, len } => w.put(&Entry::Hole { offset, len }, &[]).map(drop),
            OldPiece::Bytes { offset, bytes } => w.put(&Entry::Bytes { offset }, bytes).map(drop),
        })?;
        w.put(&Entry::Done, &[]).map(drop)
    }

    /// Notes that what an object was could not be kept, and why.
    pub fn lost(&self, ino: u64, data: u64, meta: u64, why: &str) {
        let mut w = self.writer.lock();
        w.rotate(self, self.room.load(Ordering::Relaxed), self.clock.wall_ns());
        let before = w.at;
        let now = self.clock.wall_ns();
        self.put_lost(&mut w, ino, data, meta, now, why);
        self.bytes.fetch_add(w.at.saturating_sub(before), Ordering::Relaxed);
    }

    /// Notes that the backing had nothing of an object before this store: what comes later is no base for earlier moments.
    pub fn first(&self, ino: u64, data: u64, meta: u64) {
        let mut w = self.writer.lock();
        let before = w.at;
        self.put(&mut w, ino, data, meta, self.clock.wall_ns(), "it had not been stored by then");
        self.bytes.fetch_add(w.at.saturating_sub(before), Ordering::Relaxed);
    }

    fn put_lost(&self, w: &mut Writer, ino: u64, data: u64, meta: u64, wall_ns: i64, why: &str) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        log::info!("undo: inode {ino}: what it was before this change is not kept: {why}");
        self.put(w, ino, data, meta, wall_ns, why);
    }

    fn put(&self, w: &mut Writer, ino: u64, data: u64, meta: u64, wall_ns: i64, why: &str) {
        if let Err(e) = w.put(&Entry::Lost { ino, data, meta, wall_ns, why: why.to_owned() }, &[]) {
            log::warn!("undo: writing old contents failed: {e}; moments before now cannot be restored");
            w.close(self, wall_ns);
            self.forget();
        }
    }
}
