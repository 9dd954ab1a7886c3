//! Replies: outcomes of `fs/` as answers to the kernel.

use super::convert::{TTL, attr};
use crate::fs::error::{errno, is_grave};
use crate::fs::meter::Verb;
use crate::fs::{Fs, Located, New, OpenHow, Who};
use crate::types::Kind;
use crate::volume::{Error, Result};
use fuser::*;
use std::sync::Arc;

pub(super) fn code(e: &Error) -> Errno {
    if is_grave(e) {
        log::warn!("a request failed: {e}");
    }
    Errno::from_i32(errno(e))
}

/// Answers with an entry, or with the absence of one (which the kernel remembers).
pub(super) fn entry(reply: ReplyEntry, r: Result<Option<Located>>) {
    match r {
        Ok(Some(l)) => reply.entry(&TTL, &attr(&l), Generation(0)),
        Ok(None) => reply.error(Errno::ENOENT),
        Err(e) => reply.error(code(&e)),
    }
}

pub(super) fn empty(reply: ReplyEmpty, r: Result<()>) {
    match r {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(code(&e)),
    }
}

pub(super) fn attributes(reply: ReplyAttr, r: Result<Located>) {
    match r {
        Ok(l) => reply.attr(&TTL, &attr(&l)),
        Err(e) => reply.error(code(&e)),
    }
}

pub(super) fn sized(reply: ReplyXattr, size: u32, r: Result<Vec<u8>>) {
    match r {
        Ok(v) if size == 0 => reply.size(v.len() as u32),
        Ok(v) if v.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(v) => reply.data(&v),
        Err(e) => reply.error(code(&e)),
    }
}

/// What to make, owned, so that it can move to another thread.
pub(super) struct OwnedNew {
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
    pub fn borrow(&self) -> New<'_> {
        New { kind: self.kind, mode: self.mode, umask: self.umask, rdev: self.rdev, target: &self.target }
    }
}

pub(super) fn how(flags: OpenFlags) -> OpenHow {
    const O_DSYNC: i32 = 0o10000;
    OpenHow { writes: !matches!(flags.acc_mode(), OpenAccMode::O_RDONLY), sync: flags.0 & O_DSYNC != 0 }
}

pub(super) fn open_flags(how: OpenHow, keeps_pages: bool) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, keeps_pages);
    // A handle that never writes has nothing to say at close.
    flags.set(FopenFlags::FOPEN_NOFLUSH, !how.writes);
    flags
}

pub(super) fn data(reply: ReplyData, r: Result<Vec<u8>>) {
    match r {
        Ok(v) => reply.data(&v),
        Err(e) => reply.error(code(&e)),
    }
}

/// Ends a write: at once, or with `O_SYNC` when it is durable.
pub(super) fn written(
    fs: Arc<Fs>,
    who: Who,
    h: Arc<crate::fs::Handle>,
    start: u64,
    reply: ReplyWrite,
    r: Result<usize>,
) {
    let len = match r {
        Ok(n) => n,
        Err(e) => return reply.error(code(&e)),
    };
    fs.meter.note(Verb::Write, len as u64, fs.volume.clock.monotonic_ns() - start);
    if !h.sync {
        return reply.written(len as u32);
    }
    let ino = h.cell.id;
    fs.fsync(
        &who,
        ino,
        Box::new(move |r| match r {
            Ok(()) => reply.written(len as u32),
            Err(e) => reply.error(code(&e)),
        }),
    );
}
