//! Answers by fuser's replies.

use super::answer::*;
use super::convert::{absent, attr, file_type};
use crate::fs::Located;
use crate::types::{InodeId, Kind};
use fuser::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const GENERATION: Generation = Generation(0);

/// One reply of fuser's for one kind of answer.
macro_rules! answers {
    ($($reply:ty, $answer:ty: |$r:ident, $v:pat_param| $ok:expr;)*) => {$(
        impl Reply<$answer> for $reply {
            fn ok(self, value: $answer) {
                let ($r, $v) = (self, value);
                $ok
            }
            fn refuse(self, errno: i32) {
                self.error(Errno::from_i32(errno));
            }
        }
    )*};
}

answers! {
    ReplyEmpty, (): |r, ()| r.ok();
    ReplyAttr, Attributes: |r, Attributes(l)| r.attr(&TTL, &attr(&l));
    ReplyData, Bytes: |r, Bytes(b)| r.data(&b);
    ReplyWrite, Written: |r, Written(n)| r.written(n);
    ReplyLseek, Offset: |r, Offset(at)| r.offset(at as i64);
    ReplyOpen, Opened: |r, o| r.opened(FileHandle(o.fh), open_flags(&o));
    ReplyCreate, Created: |r, Created(l, o)| {
        r.created(&TTL, &attr(&l), GENERATION, FileHandle(o.fh), open_flags(&o))
    };
    ReplyEntry, Entry: |r, Entry(found)| match found {
        Some(l) => r.entry(&TTL, &attr(&l), GENERATION),
        // Remembered as absent: programs probe the same missing names again and again.
        None => r.entry(&TTL, &absent(), GENERATION),
    };
    ReplyXattr, Attribute: |r, a| match a {
        Attribute::Length(n) => r.size(n),
        Attribute::Value(v) => r.data(&v),
    };
    ReplyStatfs, Space: |r, Space(s)| {
        let b = s.block_bytes as u32;
        let names = s.name_bytes_max.min(255);
        r.statfs(s.blocks, s.blocks_free, s.blocks_available, s.files, s.files_free, b, names, b)
    };
}

fn open_flags(o: &Opened) -> FopenFlags {
    FopenFlags::from_bits_retain(o.flags())
}

impl ReplyNames for ReplyDirectory {
    fn name(&mut self, ino: InodeId, cookie: u64, kind: Kind, name: &[u8]) -> bool {
        self.add(INodeNo(ino.0), cookie, file_type(kind), OsStr::from_bytes(name))
    }
    fn plus(&mut self, cookie: u64, name: &[u8], l: &Located) -> bool {
        self.name(l.ino, cookie, l.attr.kind, name)
    }
    fn end(self) {
        self.ok();
    }
    fn refuse(self, errno: i32) {
        self.error(Errno::from_i32(errno));
    }
}

impl ReplyNames for ReplyDirectoryPlus {
    /// Only a reply without attributes takes a name without.
    fn name(&mut self, _ino: InodeId, _cookie: u64, _kind: Kind, _name: &[u8]) -> bool {
        true
    }
    fn plus(&mut self, cookie: u64, name: &[u8], l: &Located) -> bool {
        self.add(INodeNo(l.ino.0), cookie, OsStr::from_bytes(name), &TTL, &attr(l), GENERATION)
    }
    fn end(self) {
        self.ok();
    }
    fn refuse(self, errno: i32) {
        self.error(Errno::from_i32(errno));
    }
}

/// A write as fuser gives it: bytes of its buffer, or our copy of them.
pub(super) struct Carried<B>(pub B, pub ReplyWrite);

impl<B: AsRef<[u8]>> Carries for Carried<B> {
    type Kept = Carried<Vec<u8>>;
    type Reply = ReplyWrite;
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }
    fn keep(self) -> Carried<Vec<u8>> {
        Carried(self.0.as_ref().to_vec(), self.1)
    }
    fn into_reply(self) -> ReplyWrite {
        self.1
    }
}
