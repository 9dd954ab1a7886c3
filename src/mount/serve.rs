//! What answers requests, whichever way they came: the filesystem (`ops`), or the floor it is measured against (`floor`).

use super::answer::*;
use super::ops::{Caller, CopyRange, OwnedNew, WriteAt};
use crate::fs::{OpenHow, SetAttrRequest};
use crate::types::{InodeId, Kind};

/// A name in a directory.
pub type At = (InodeId, Vec<u8>);

/// One method a request. What is left out is refused as unknown, which the kernel then asks no more.
pub trait Serve: Send + Sync + 'static {
    /// Whether the kernel is to check permissions by access lists.
    fn has_access_lists(&self) -> bool;
    /// The kernel drops so many references to an inode.
    fn forget(&self, ino: InodeId, times: u64);

    fn lookup(&self, parent: InodeId, name: Vec<u8>, reply: impl Reply<Entry>);
    fn getattr(&self, ino: InodeId, reply: impl Reply<Attributes>);
    fn setattr(&self, by: Caller, ino: InodeId, set: SetAttrRequest, reply: impl Reply<Attributes>);
    fn readlink(&self, ino: InodeId, reply: impl Reply<Bytes>);
    fn make(&self, by: Caller, parent: InodeId, name: Vec<u8>, new: OwnedNew, reply: impl Reply<Entry>);
    fn mknod(
        &self,
        by: Caller,
        parent: InodeId,
        name: Vec<u8>,
        (mode, umask, rdev): (u32, u32, u32),
        reply: impl Reply<Entry>,
    ) {
        match kind_of_mode(mode) {
            Some(kind) => self.make(by, parent, name, OwnedNew::plain(kind, mode, umask, rdev), reply),
            None => reply.refuse(libc::EINVAL),
        }
    }
    fn remove(&self, by: Caller, parent: InodeId, name: Vec<u8>, dir: bool, reply: impl Reply<()>);
    fn rename(&self, by: Caller, from: At, to: At, flags: u32, reply: impl Reply<()>);
    fn link(&self, _: Caller, _: InodeId, _: InodeId, _: Vec<u8>, reply: impl Reply<Entry>) {
        reply.refuse(libc::ENOSYS);
    }
    fn open(&self, by: Caller, ino: InodeId, how: OpenHow, reply: impl Reply<Opened>);
    fn create(
        &self,
        by: Caller,
        parent: InodeId,
        name: Vec<u8>,
        modes: (u32, u32),
        how: OpenHow,
        reply: impl Reply<Created>,
    );
    fn read(&self, ino: InodeId, offset: u64, size: u32, reply: impl Reply<Bytes>);
    fn write(&self, by: Caller, at: WriteAt, carried: impl Carries);
    fn flush(&self, by: Caller, ino: InodeId, reply: impl Reply<()>);
    fn release(&self, fh: u64, reply: impl Reply<()>);
    fn fsync(&self, by: Caller, ino: InodeId, reply: impl Reply<()>);
    fn opendir(&self, reply: impl Reply<Opened>) {
        reply.refuse(libc::ENOSYS);
    }
    fn readdir(&self, ino: InodeId, offset: u64, reply: impl ReplyNames);
    fn readdirplus(&self, ino: InodeId, offset: u64, reply: impl ReplyNames);
    /// Answered once all that was acknowledged before is durable in the log.
    fn syncfs(&self, reply: impl Reply<()>);
    fn destroy(&self, reply: impl Reply<()>);
    fn statfs(&self, reply: impl Reply<Space>);
    fn setxattr(&self, _: Caller, _: InodeId, _: Vec<u8>, _: Vec<u8>, _: i32, reply: impl Reply<()>) {
        reply.refuse(libc::ENOSYS);
    }
    fn getxattr(&self, ino: InodeId, name: Vec<u8>, size: u32, reply: impl Reply<Attribute>);
    fn listxattr(&self, ino: InodeId, size: u32, reply: impl Reply<Attribute>);
    fn removexattr(&self, _: Caller, _: InodeId, _: Vec<u8>, reply: impl Reply<()>) {
        reply.refuse(libc::ENOSYS);
    }
    fn fallocate(&self, _: Caller, _: InodeId, _: (u64, u64), _: i32, reply: impl Reply<()>) {
        reply.refuse(libc::ENOSYS);
    }
    fn lseek(&self, _: InodeId, _: i64, _: i32, reply: impl Reply<Offset>) {
        reply.refuse(libc::ENOSYS);
    }
    fn copy_range(&self, _: Caller, _: CopyRange, reply: impl Reply<Written>) {
        reply.refuse(libc::ENOSYS);
    }
}

/// The kind in a mode of mknod(2).
fn kind_of_mode(mode: u32) -> Option<Kind> {
    Some(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Kind::File,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDev,
        libc::S_IFBLK => Kind::BlockDev,
        _ => return None,
    })
}
