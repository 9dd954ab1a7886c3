//! One method a request: values in, `fs/`, an answer. Whoever calls them has decoded the request, and brings
//! the reply to it.

use super::answer::*;
use super::caller::Callers;
use super::serve::Serve;
use crate::fs::meter::Verb;
use crate::fs::{Fs, Handle, New, OpenHow, STATE, STATE_BYTES_MAX, SetAttrRequest, Who};
use crate::sys::patience;
use crate::sys::pool::Pool;
use crate::types::{InodeId, Kind};
use crate::volume::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Who asks, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// A thread's number.
    pub tid: u32,
}

/// What to make, owned, so that it can move to another thread.
pub struct OwnedNew {
    pub kind: Kind,
    pub mode: u32,
    pub umask: u32,
    pub rdev: u32,
    pub target: Vec<u8>,
}

impl OwnedNew {
    pub fn plain(kind: Kind, mode: u32, umask: u32, rdev: u32) -> OwnedNew {
        OwnedNew { kind, mode, umask, rdev, target: Vec::new() }
    }
    pub fn symlink(target: Vec<u8>) -> OwnedNew {
        OwnedNew { kind: Kind::Symlink, mode: 0o777, umask: 0, rdev: 0, target }
    }
    fn borrow(&self) -> New<'_> {
        New { kind: self.kind, mode: self.mode, umask: self.umask, rdev: self.rdev, target: &self.target }
    }
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteAt {
    pub fh: u64,
    pub offset: u64,
    /// From a mapping, by the kernel's flusher.
    pub cached: bool,
    /// Set-id bits go.
    pub kill: bool,
}

/// A part of two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    pub from: (InodeId, u64),
    pub to: (InodeId, u64),
    pub len: u64,
}

/// Told that the mount is gone; its umount(2) waits until the answer is called or dropped. Returns at once.
pub type AtEnd = Arc<dyn Fn(Answer) + Send + Sync>;

/// Lets a umount(2) return.
pub type Answer = Box<dyn FnOnce() + Send>;

pub struct Ops {
    pub fs: Arc<Fs>,
    pub callers: Arc<Callers>,
    pub pool: Pool,
    pub at_end: AtEnd,
}

/// How a file is opened, from the flags of open(2).
pub fn how(flags: i32) -> OpenHow {
    OpenHow { writes: flags & libc::O_ACCMODE != libc::O_RDONLY, sync: flags & libc::O_DSYNC != 0 }
}

impl Ops {
    fn who(&self, by: Caller) -> Who {
        Who { uid: by.uid, gid: by.gid, client: self.callers.or_nobody(by.tid) }
    }

    /// Runs an operation here if it need not wait, else on a thread that may.
    fn run<T: Send + 'static>(
        &self,
        mut op: impl FnMut(&Fs) -> Result<T> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        self.fs.meter.ask();
        match patience::impatient(|| op(&self.fs)) {
            Err(Error::WouldBlock | Error::Full) => {
                let fs = self.fs.clone();
                self.pool.run(move || reply(fs.patiently(|| op(&fs))));
            }
            r => reply(r),
        }
    }
}

impl Serve for Ops {
    fn has_access_lists(&self) -> bool {
        self.fs.has_access_lists()
    }

    fn forget(&self, ino: InodeId, times: u64) {
        self.fs.forget(ino, times);
    }

    fn lookup(&self, parent: InodeId, name: Vec<u8>, reply: impl Reply<Entry>) {
        self.run(move |fs| fs.lookup(parent, &name).map(Entry), |r| reply.done(r));
    }

    fn getattr(&self, ino: InodeId, reply: impl Reply<Attributes>) {
        self.run(move |fs| fs.getattr(ino).map(Attributes), |r| reply.done(r));
    }

    fn setattr(&self, by: Caller, ino: InodeId, set: SetAttrRequest, reply: impl Reply<Attributes>) {
        let who = self.who(by);
        self.run(move |fs| fs.setattr(&who, ino, &set).map(Attributes), |r| reply.done(r));
    }

    fn readlink(&self, ino: InodeId, reply: impl Reply<Bytes>) {
        self.run(move |fs| fs.readlink(ino).map(|target| Bytes(target.into())), |r| reply.done(r));
    }

    fn make(&self, by: Caller, parent: InodeId, name: Vec<u8>, new: OwnedNew, reply: impl Reply<Entry>) {
        let who = self.who(by);
        let op = move |fs: &Fs| fs.make(&who, parent, &name, &new.borrow()).map(|l| Entry(Some(l)));
        self.run(op, |r| reply.done(r));
    }

    fn remove(&self, by: Caller, parent: InodeId, name: Vec<u8>, dir: bool, reply: impl Reply<()>) {
        let who = self.who(by);
        self.run(move |fs| fs.remove(&who, parent, &name, dir), |r| reply.done(r));
    }

    fn rename(
        &self,
        by: Caller,
        (p, a): (InodeId, Vec<u8>),
        (q, b): (InodeId, Vec<u8>),
        flags: u32,
        reply: impl Reply<()>,
    ) {
        let who = self.who(by);
        self.run(move |fs| fs.rename(&who, (p, &a), (q, &b), flags), |r| reply.done(r));
    }

    fn link(&self, by: Caller, ino: InodeId, parent: InodeId, name: Vec<u8>, reply: impl Reply<Entry>) {
        let who = self.who(by);
        let op = move |fs: &Fs| fs.link(&who, ino, parent, &name).map(|l| Entry(Some(l)));
        self.run(op, |r| reply.done(r));
    }

    fn open(&self, by: Caller, ino: InodeId, how: OpenHow, reply: impl Reply<Opened>) {
        let who = self.who(by);
        let op = move |fs: &Fs| {
            let fh = fs.open(&who, ino, how)?;
            Ok(Opened { fh, how, keeps_pages: fs.keeps_pages(fh) })
        };
        self.run(op, |r| reply.done(r));
    }

    fn create(
        &self,
        by: Caller,
        parent: InodeId,
        name: Vec<u8>,
        (mode, umask): (u32, u32),
        how: OpenHow,
        reply: impl Reply<Created>,
    ) {
        let who = self.who(by);
        let new = OwnedNew::plain(Kind::File, mode, umask, 0);
        let op = move |fs: &Fs| {
            let l = fs.make(&who, parent, &name, &new.borrow())?;
            Ok(Created(l, Opened { fh: fs.open(&who, l.ino, how)?, how, keeps_pages: true }))
        };
        self.run(op, |r| reply.done(r));
    }

    fn read(&self, ino: InodeId, offset: u64, size: u32, reply: impl Reply<Bytes>) {
        let fs = self.fs.clone();
        let start = fs.volume.clock.monotonic_ns();
        self.run(
            move |fs| fs.read(ino, offset, size as usize),
            move |r| {
                let bytes = r.as_ref().map_or(0, |v| v.len() as u64);
                fs.meter.note(Verb::Read, bytes, fs.volume.clock.monotonic_ns() - start);
                reply.done(r.map(Bytes));
            },
        );
    }

    fn write(&self, by: Caller, at: WriteAt, carried: impl Carries) {
        let start = self.fs.volume.clock.monotonic_ns();
        self.fs.meter.ask();
        let h = match self.fs.handle(at.fh) {
            Ok(h) => h,
            Err(e) => return carried.into_reply().refuse(code(&e)),
        };
        // Stores through a mapping come from the kernel's flusher: the opener stands for them.
        let client = if at.cached { None } else { self.callers.client(by.tid) };
        let client = client.unwrap_or_else(|| h.opener.clone());
        let who = Who { uid: by.uid, gid: by.gid, client };
        let mut done = 0;
        let may = |fs: &Fs, h: &Handle| if h.sync { fs.surely_ours() } else { Ok(()) };
        let now = patience::impatient(|| {
            may(&self.fs, &h)?;
            self.fs.write(&who, &h.cell, at.offset, carried.bytes(), at.kill, &mut done)
        });
        match now {
            Err(Error::WouldBlock | Error::Full) => {
                let (fs, rest) = (self.fs.clone(), carried.keep());
                self.pool.run(move || {
                    let r = fs.patiently(|| {
                        may(&fs, &h)?;
                        fs.write(&who, &h.cell, at.offset, rest.bytes(), at.kill, &mut done)
                    });
                    written(&fs, &who, &h, start, r, rest.into_reply());
                });
            }
            r => written(&self.fs, &who, &h, start, r, carried.into_reply()),
        }
    }

    fn flush(&self, by: Caller, ino: InodeId, reply: impl Reply<()>) {
        let who = self.who(by);
        self.run(move |fs| fs.flush(&who, ino), |r| reply.done(r));
    }

    fn release(&self, fh: u64, reply: impl Reply<()>) {
        self.fs.release(fh);
        reply.ok(());
    }

    fn fsync(&self, by: Caller, ino: InodeId, reply: impl Reply<()>) {
        let who = self.who(by);
        let start = self.fs.volume.clock.monotonic_ns();
        let fs = self.fs.clone();
        let done: Box<dyn FnOnce(Result<()>) + Send> = Box::new(move |r| {
            let took = fs.volume.clock.monotonic_ns() - start;
            fs.meter.note(Verb::Fsync, 0, took);
            reply.done(r);
        });
        // What has to be written before the sync may have to wait; the sync itself is the committers'.
        let before = move |fs: &Fs, who: &Who| fs.surely_ours().and_then(|()| fs.flush(who, ino));
        match patience::impatient(|| before(&self.fs, &who)) {
            Ok(()) => self.fs.fsync(&who, ino, done),
            Err(Error::WouldBlock | Error::Full) => {
                let fs = self.fs.clone();
                self.pool.run(move || match fs.patiently(|| before(&fs, &who)) {
                    Ok(()) => fs.fsync(&who, ino, done),
                    Err(e) => done(Err(e)),
                });
            }
            Err(e) => done(Err(e)),
        }
    }

    fn opendir(&self, reply: impl Reply<Opened>) {
        if self.fs.listings_may_be_kept() {
            // Said once: from now on the kernel opens directories by itself, and keeps what it reads of them.
            reply.refuse(libc::ENOSYS);
        } else {
            reply.ok(Opened::NONE);
        }
    }

    fn readdir(&self, ino: InodeId, offset: u64, mut reply: impl ReplyNames) {
        self.run(
            move |fs| fs.listing(ino, offset == 0),
            move |r| match r {
                Err(e) => reply.refuse(code(&e)),
                Ok(l) => {
                    for item in l.after(offset) {
                        if reply.name(item.ino, item.cookie, item.kind, &item.name) {
                            break;
                        }
                    }
                    reply.end();
                }
            },
        );
    }

    fn readdirplus(&self, ino: InodeId, offset: u64, mut reply: impl ReplyNames) {
        let fs = self.fs.clone();
        let op = move |fs: &Fs| fs.listed_plus(ino, offset);
        self.run(op, move |r| match r {
            Err(e) => reply.refuse(code(&e)),
            Ok(items) => {
                let mut full = false;
                for (cookie, name, l, held) in items {
                    full = full || reply.plus(cookie, &name, &l);
                    if full && held {
                        fs.forget(l.ino, 1);
                    }
                }
                reply.end();
            }
        });
    }

    /// Answered once all that was acknowledged before is durable in the log.
    fn syncfs(&self, reply: impl Reply<()>) {
        let fs = self.fs.clone();
        self.pool.run(move || {
            let r = fs.patiently(|| fs.settle_all());
            if r.is_err() {
                return reply.done(r);
            }
            fs.volume.wal.sync_all(Box::new(move |r| reply.done(r.map_err(|e| Error::SyncFailed(e.0)))));
        });
    }

    fn destroy(&self, reply: impl Reply<()>) {
        (self.at_end)(Box::new(move || reply.ok(())));
    }

    fn statfs(&self, reply: impl Reply<Space>) {
        self.run(|fs| fs.statfs().map(Space), |r| reply.done(r));
    }

    fn setxattr(
        &self,
        by: Caller,
        ino: InodeId,
        name: Vec<u8>,
        value: Vec<u8>,
        flags: i32,
        reply: impl Reply<()>,
    ) {
        let who = self.who(by);
        self.run(move |fs| fs.setxattr(&who, ino, &name, &value, flags), |r| reply.done(r));
    }

    fn getxattr(&self, ino: InodeId, name: Vec<u8>, size: u32, reply: impl Reply<Attribute>) {
        // Whoever asks for its length asks for the text later, and it may be another by then.
        let changes = size == 0 && name == STATE;
        let fit = move |v| if changes { Ok(Attribute::Length(STATE_BYTES_MAX)) } else { sized(v, size) };
        self.run(move |fs| fs.getxattr(ino, &name), move |r| reply.done(r.and_then(fit)));
    }

    fn listxattr(&self, ino: InodeId, size: u32, reply: impl Reply<Attribute>) {
        self.run(move |fs| fs.listxattr(ino), move |r| reply.done(r.and_then(|v| sized(v, size))));
    }

    fn removexattr(&self, by: Caller, ino: InodeId, name: Vec<u8>, reply: impl Reply<()>) {
        let who = self.who(by);
        self.run(move |fs| fs.removexattr(&who, ino, &name), |r| reply.done(r));
    }

    fn fallocate(
        &self,
        by: Caller,
        ino: InodeId,
        (offset, len): (u64, u64),
        mode: i32,
        reply: impl Reply<()>,
    ) {
        let who = self.who(by);
        self.run(move |fs| fs.fallocate(&who, ino, offset, len, mode), |r| reply.done(r));
    }

    fn lseek(&self, ino: InodeId, offset: i64, whence: i32, reply: impl Reply<Offset>) {
        if !matches!(whence, libc::SEEK_DATA | libc::SEEK_HOLE) || offset < 0 {
            return reply.refuse(libc::EINVAL);
        }
        let op = move |fs: &Fs| fs.seek(ino, offset as u64, whence == libc::SEEK_HOLE).map(Offset);
        self.run(op, |r| reply.done(r));
    }

    fn copy_range(&self, by: Caller, c: CopyRange, reply: impl Reply<Written>) {
        let (who, fs) = (self.who(by), self.fs.clone());
        let mut done = 0;
        // Long: never on a session thread. One reply counts at most 32 bits.
        let len = c.len.min(1 << 30);
        self.pool.run(move || {
            let r = fs.patiently(|| fs.copy_range(&who, c.from, c.to, len, &mut done));
            reply.done(r.map(|n| Written(n as u32)));
        });
    }
}

/// What fits the `size` that was asked for; 0 asks for the length.
fn sized(value: Vec<u8>, size: u32) -> Result<Attribute> {
    match size as usize {
        0 => Ok(Attribute::Length(value.len() as u32)),
        n if value.len() > n => Err(Error::RangeTooSmall),
        _ => Ok(Attribute::Value(value)),
    }
}

/// Ends a write: at once, or with `O_SYNC` when it is durable.
fn written(fs: &Fs, who: &Who, h: &Handle, start: u64, r: Result<usize>, reply: impl Reply<Written>) {
    let len = match r {
        Ok(n) => n,
        Err(e) => return reply.refuse(code(&e)),
    };
    let took_ns = fs.volume.clock.monotonic_ns() - start;
    fs.meter.note(Verb::Write, len as u64, took_ns);
    who.client.latency.note(took_ns);
    if !h.wrote.load(Ordering::Relaxed) {
        h.wrote.store(true, Ordering::Relaxed);
    }
    let all = Written(len as u32);
    if !h.sync {
        return reply.ok(all);
    }
    fs.fsync(who, h.cell.id, Box::new(move |r| reply.done(r.map(|()| all))));
}
