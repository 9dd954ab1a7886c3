//! Answers, into an entry's buffer.

use super::*;
use crate::fs::Located;
use crate::mount::answer::*;
use crate::types::{Attr, InodeId, Kind};

/// Where an answer goes. What does not fit is left out, and said at the end.
pub struct Out<'a> {
    into: &'a mut [u8],
    at: usize,
    over: bool,
}

impl<'a> Out<'a> {
    pub fn new(into: &'a mut [u8]) -> Out<'a> {
        Out { into, at: 0, over: false }
    }
    /// How long the answer is; `None` when it did not fit.
    pub fn end(&self) -> Option<usize> {
        (!self.over).then_some(self.at)
    }
    pub fn bytes(&mut self, b: &[u8]) {
        match self.into.get_mut(self.at..self.at + b.len()) {
            Some(room) => {
                room.copy_from_slice(b);
                self.at += b.len();
            }
            None => self.over = true,
        }
    }
    fn u32(&mut self, n: u32) {
        self.bytes(&n.to_ne_bytes());
    }
    fn u64(&mut self, n: u64) {
        self.bytes(&n.to_ne_bytes());
    }
    fn i64(&mut self, n: i64) {
        self.bytes(&n.to_ne_bytes());
    }
    fn zeros<const N: usize>(&mut self) {
        self.bytes(&[0; N]);
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, ino: InodeId, a: &Attr) {
        let times = [a.atime, a.mtime, a.ctime];
        self.u64(ino.0);
        self.u64(a.size);
        self.u64(a.blocks);
        times.iter().for_each(|t| self.i64(t.secs));
        times.iter().for_each(|t| self.u32(t.nanos));
        self.u32(mode_of(a.kind) | a.mode & 0o7777);
        self.u32(a.nlink);
        self.u32(a.uid);
        self.u32(a.gid);
        self.u32(a.rdev);
        self.u32(4096);
        self.u32(0);
    }

    /// `struct fuse_entry_out`; inode 0 says "no such name, remember it".
    fn entry(&mut self, found: Option<&Located>) {
        self.u64(found.map_or(0, |l| l.ino.0));
        self.u64(0);
        self.u64(TTL.as_secs());
        self.u64(TTL.as_secs());
        self.zeros::<8>();
        match found {
            Some(l) => self.attr(l.ino, &l.attr),
            None => self.zeros::<ATTR_BYTES>(),
        }
    }

    /// `struct fuse_open_out`.
    fn open(&mut self, o: &Opened) {
        self.u64(o.fh);
        self.u32(o.flags());
        self.u32(0);
    }

    /// `struct fuse_dirent`.
    fn dirent(&mut self, ino: InodeId, cookie: u64, kind: Kind, name: &[u8]) {
        self.u64(ino.0);
        self.u64(cookie);
        self.u32(name.len() as u32);
        self.u32(mode_of(kind) >> 12);
        self.bytes(name);
        self.bytes(&[0; 8][..padding(name)]);
    }
}

/// The type bits of a mode.
fn mode_of(k: Kind) -> u32 {
    match k {
        Kind::File => libc::S_IFREG,
        Kind::Dir => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDev => libc::S_IFCHR,
        Kind::BlockDev => libc::S_IFBLK,
    }
}

/// Names are followed by zeros up to the next multiple of 8.
fn padding(name: &[u8]) -> usize {
    name.len().next_multiple_of(8) - name.len()
}

/// An answer as the kernel reads it.
pub trait Encode {
    fn encode(&self, out: &mut Out<'_>);
}

impl Encode for () {
    fn encode(&self, _: &mut Out<'_>) {}
}

impl Encode for Entry {
    fn encode(&self, out: &mut Out<'_>) {
        out.entry(self.0.as_ref());
    }
}

impl Encode for Attributes {
    fn encode(&self, out: &mut Out<'_>) {
        out.u64(TTL.as_secs());
        out.zeros::<8>();
        out.attr(self.0.ino, &self.0.attr);
    }
}

impl Encode for Bytes {
    fn encode(&self, out: &mut Out<'_>) {
        out.bytes(&self.0);
    }
}

impl Encode for Written {
    fn encode(&self, out: &mut Out<'_>) {
        out.u32(self.0);
        out.u32(0);
    }
}

impl Encode for Offset {
    fn encode(&self, out: &mut Out<'_>) {
        out.u64(self.0);
    }
}

impl Encode for Opened {
    fn encode(&self, out: &mut Out<'_>) {
        out.open(self);
    }
}

impl Encode for Created {
    fn encode(&self, out: &mut Out<'_>) {
        out.entry(Some(&self.0));
        out.open(&self.1);
    }
}

impl Encode for Attribute {
    fn encode(&self, out: &mut Out<'_>) {
        match self {
            Attribute::Length(n) => {
                out.u32(*n);
                out.u32(0);
            }
            Attribute::Value(v) => out.bytes(v),
        }
    }
}

impl Encode for Space {
    fn encode(&self, out: &mut Out<'_>) {
        let s = &self.0;
        [s.blocks, s.blocks_free, s.blocks_available, s.files, s.files_free].iter().for_each(|n| out.u64(*n));
        let block = s.block_bytes as u32;
        [block, s.name_bytes_max.min(255), block].iter().for_each(|n| out.u32(*n));
        out.zeros::<28>();
    }
}

/// Names of a directory, as many as fit.
pub struct Names<'a> {
    out: Out<'a>,
}

impl<'a> Names<'a> {
    /// Goes on behind the first `at` bytes of an answer of at most `size`.
    pub fn new(into: &'a mut [u8], at: usize, size: u32) -> Names<'a> {
        let end = into.len().min(size as usize);
        Names { out: Out { into: &mut into[..end], at: at.min(end), over: false } }
    }

    pub fn at(&self) -> usize {
        self.out.at
    }

    /// False if it does not fit.
    pub fn push(&mut self, ino: InodeId, cookie: u64, kind: Kind, name: &[u8]) -> bool {
        let fits = self.has(DIRENT_BYTES, name);
        if fits {
            self.out.dirent(ino, cookie, kind, name);
        }
        fits
    }

    /// With the attributes, `struct fuse_direntplus`; false if it does not fit.
    pub fn push_plus(&mut self, cookie: u64, name: &[u8], l: &Located) -> bool {
        let fits = self.has(ENTRY_OUT_BYTES + DIRENT_BYTES, name);
        if fits {
            self.out.entry(Some(l));
            self.out.dirent(l.ino, cookie, l.attr.kind, name);
        }
        fits
    }

    fn has(&self, fixed: usize, name: &[u8]) -> bool {
        self.out.at + fixed + name.len() + padding(name) <= self.out.into.len()
    }
}
