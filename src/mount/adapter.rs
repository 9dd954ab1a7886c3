//! The adapter: one short method a request.
use super::caller::Callers;
use super::convert::{self, TTL, attr, file_type, kind_of_mode};
use super::reply::{OwnedNew, attributes, code, data, empty, entry, how, open_flags, sized, written};
use super::session::WRITE_BYTES_MAX;
use crate::fs::meter::Verb;
use crate::fs::{Fs, Who};
use crate::sys::patience;
use crate::sys::pool::Pool;
use crate::types::{InodeId, Kind};
use crate::volume::{Error, Result};
use fuser::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub struct Adapter {
    pub fs: Arc<Fs>,
    pub callers: Arc<Callers>,
    pub pool: Pool,
}

impl Adapter {
    fn who(&self, req: &Request) -> Who {
        Who { uid: req.uid(), gid: req.gid(), client: self.callers.or_nobody(req.pid()) }
    }

    /// Runs an operation here if it need not wait, else on a thread that may.
    fn run<T: Send + 'static>(
        &self,
        mut op: impl FnMut(&Fs) -> Result<T> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        match patience::impatient(|| op(&self.fs)) {
            Err(Error::WouldBlock | Error::Full) => {
                let fs = self.fs.clone();
                self.pool.run(move || reply(fs.patiently(|| op(&fs))));
            }
            r => reply(r),
        }
    }

    fn make(&self, req: &Request, parent: INodeNo, name: &OsStr, new: OwnedNew, reply: ReplyEntry) {
        let (who, name) = (self.who(req), name.as_bytes().to_vec());
        let op = move |fs: &Fs| fs.make(&who, InodeId(parent.0), &name, &new.borrow()).map(Some);
        self.run(op, |r| entry(reply, r));
    }

    fn sync(&self, req: &Request, ino: INodeNo, reply: ReplyEmpty) {
        let who = self.who(req);
        let start = self.fs.volume.clock.monotonic_ns();
        let fs = self.fs.clone();
        let done = Box::new(move |r: Result<()>| {
            let took = fs.volume.clock.monotonic_ns() - start;
            fs.meter.note(Verb::Fsync, 0, took);
            empty(reply, r);
        });
        self.fs.fsync(&who, InodeId(ino.0), done);
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        super::session::ask_for(config, self.fs.has_access_lists());
        if let Err(most) = config.set_max_write(WRITE_BYTES_MAX) {
            log::info!("largest write: {most} bytes");
        }
        if let Err(most) = config.set_max_background(128) {
            log::info!("requests in the background: {most}");
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        let op = move |fs: &Fs| fs.lookup(InodeId(parent.0), &name);
        self.run(op, |r| match r {
            // Remembered as absent: programs probe the same missing names again and again.
            Ok(None) => reply.entry(&TTL, &convert::absent(), Generation(0)),
            r => entry(reply, r),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(InodeId(ino.0), nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.run(move |fs| fs.getattr(InodeId(ino.0)), |r| attributes(reply, r));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let who = self.who(req);
        let set = convert::set_attr(mode, uid, gid, size, atime, mtime, ctime);
        self.run(move |fs| fs.setattr(&who, InodeId(ino.0), &set), |r| attributes(reply, r));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.run(move |fs| fs.readlink(InodeId(ino.0)), |r| data(reply, r));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        match kind_of_mode(mode) {
            Some(kind) => self.make(req, parent, name, OwnedNew::plain(kind, mode, umask, rdev), reply),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.make(req, parent, name, OwnedNew::plain(Kind::Dir, mode, umask, 0), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes().to_vec();
        let new = OwnedNew { kind: Kind::Symlink, mode: 0o777, umask: 0, rdev: 0, target };
        self.make(req, parent, name, new, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, name) = (self.who(req), name.as_bytes().to_vec());
        self.run(move |fs| fs.remove(&who, InodeId(parent.0), &name, false), |r| empty(reply, r));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, name) = (self.who(req), name.as_bytes().to_vec());
        self.run(move |fs| fs.remove(&who, InodeId(parent.0), &name, true), |r| empty(reply, r));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (who, a, b) = (self.who(req), name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        let (p, q, flags) = (InodeId(parent.0), InodeId(newparent.0), flags.bits());
        self.run(move |fs| fs.rename(&who, (p, &a), (q, &b), flags), |r| empty(reply, r));
    }

    fn link(&self, req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (who, name) = (self.who(req), name.as_bytes().to_vec());
        let op = move |fs: &Fs| fs.link(&who, InodeId(ino.0), InodeId(parent.0), &name).map(Some);
        self.run(op, |r| entry(reply, r));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (who, how) = (self.who(req), how(flags));
        self.run(
            move |fs| fs.open(&who, InodeId(ino.0), how).map(|fh| (fh, fs.keeps_pages(fh))),
            move |r| match r {
                Ok((fh, keeps)) => reply.opened(FileHandle(fh), open_flags(how, keeps)),
                Err(e) => reply.error(code(&e)),
            },
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (who, name, how) = (self.who(req), name.as_bytes().to_vec(), how(OpenFlags(flags)));
        let new = OwnedNew::plain(Kind::File, mode, umask, 0);
        let op = move |fs: &Fs| {
            let l = fs.make(&who, InodeId(parent.0), &name, &new.borrow())?;
            Ok((l, fs.open(&who, l.ino, how)?))
        };
        self.run(op, move |r| match r {
            Ok((l, fh)) => {
                reply.created(&TTL, &attr(&l), Generation(0), FileHandle(fh), open_flags(how, true))
            }
            Err(e) => reply.error(code(&e)),
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs.clone();
        let start = fs.volume.clock.monotonic_ns();
        self.run(
            move |fs| fs.read(InodeId(ino.0), offset, size as usize),
            move |r| {
                let bytes = r.as_ref().map_or(0, |v| v.len() as u64);
                fs.meter.note(Verb::Read, bytes, fs.volume.clock.monotonic_ns() - start);
                data(reply, r)
            },
        );
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let start = self.fs.volume.clock.monotonic_ns();
        let h = match self.fs.handle(fh.0) {
            Ok(h) => h,
            Err(e) => return reply.error(code(&e)),
        };
        // Stores through a mapping come from the kernel's flusher: the opener stands for them.
        let cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let client = if cached { None } else { self.callers.client(req.pid()) };
        let client = client.unwrap_or_else(|| h.opener.clone());
        let who = Who { uid: req.uid(), gid: req.gid(), client };
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let mut done = 0;
        let fs = self.fs.clone();
        let now = patience::impatient(|| fs.write(&who, &h.cell, offset, data, kill, &mut done));
        let finish = {
            let (who, h, fs) = (who.clone(), h.clone(), fs.clone());
            move |r: Result<usize>| written(fs, who, h, start, reply, r)
        };
        match now {
            Err(Error::WouldBlock | Error::Full) => {
                let rest = data.to_vec();
                self.pool.run(move || {
                    let r = fs.patiently(|| fs.write(&who, &h.cell, offset, &rest, kill, &mut done));
                    finish(r);
                });
            }
            r => finish(r),
        }
    }

    fn flush(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let who = self.who(req);
        self.run(move |fs| fs.flush(&who, InodeId(ino.0)), |r| empty(reply, r));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(fh.0);
        reply.ok();
    }

    fn fsync(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(req, ino, reply);
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(req, ino, reply);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.fs.listings_may_be_kept() {
            // Said once: from now on the kernel opens directories by itself, and keeps what it reads of them.
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::empty());
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.run(
            move |fs| fs.listing(InodeId(ino.0), offset == 0),
            move |r| match r {
                Err(e) => reply.error(code(&e)),
                Ok(l) => {
                    for item in l.after(offset) {
                        let name = OsStr::from_bytes(&item.name);
                        if reply.add(INodeNo(item.ino.0), item.cookie, file_type(item.kind), name) {
                            break;
                        }
                    }
                    reply.ok();
                }
            },
        );
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let fs = self.fs.clone();
        let op = move |fs: &Fs| fs.listed_plus(InodeId(ino.0), offset);
        self.run(op, move |r| match r {
            Err(e) => reply.error(code(&e)),
            Ok(items) => {
                let mut full = false;
                for (cookie, name, l, held) in items {
                    full = full
                        || reply.add(
                            INodeNo(l.ino.0),
                            cookie,
                            OsStr::from_bytes(&name),
                            &TTL,
                            &attr(&l),
                            Generation(0),
                        );
                    if full && held {
                        fs.forget(l.ino, 1);
                    }
                }
                reply.ok();
            }
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.run(Fs::statfs, |r| match r {
            Ok(s) => {
                let b = s.block_bytes as u32;
                let names = s.name_bytes_max.min(255);
                reply.statfs(s.blocks, s.blocks_free, s.blocks_available, s.files, s.files_free, b, names, b)
            }
            Err(e) => reply.error(code(&e)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (who, name, value) = (self.who(req), name.as_bytes().to_vec(), value.to_vec());
        let op = move |fs: &Fs| fs.setxattr(&who, InodeId(ino.0), &name, &value, flags);
        self.run(op, |r| empty(reply, r));
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        self.run(move |fs| fs.getxattr(InodeId(ino.0), &name), move |r| sized(reply, size, r));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.run(move |fs| fs.listxattr(InodeId(ino.0)), move |r| sized(reply, size, r));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, name) = (self.who(req), name.as_bytes().to_vec());
        self.run(move |fs| fs.removexattr(&who, InodeId(ino.0), &name), |r| empty(reply, r));
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let who = self.who(req);
        let op = move |fs: &Fs| fs.fallocate(&who, InodeId(ino.0), offset, length, mode);
        self.run(op, |r| empty(reply, r));
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        if !matches!(whence, SEEK_DATA | SEEK_HOLE) || offset < 0 {
            return reply.error(Errno::EINVAL);
        }
        let op = move |fs: &Fs| fs.seek(InodeId(ino.0), offset as u64, whence == SEEK_HOLE);
        self.run(op, |r| match r {
            Ok(at) => reply.offset(at as i64),
            Err(e) => reply.error(code(&e)),
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (who, fs) = (self.who(req), self.fs.clone());
        let (from, to) = ((InodeId(ino_in.0), offset_in), (InodeId(ino_out.0), offset_out));
        let mut done = 0;
        // Long: never on a session thread. One reply counts at most 32 bits.
        let len = len.min(1 << 30);
        self.pool.run(move || match fs.patiently(|| fs.copy_range(&who, from, to, len, &mut done)) {
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(code(&e)),
        });
    }
}
