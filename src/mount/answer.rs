//! What operations answer, whichever way their requests came.

use crate::backing::BackingSpace;
use crate::fs::error::{errno, is_grave};
use crate::fs::{Located, OpenHow};
use crate::types::{InodeId, Kind};
use crate::volume::{Buffer, Error, Result};
use std::time::Duration;

/// The backing is ours alone, so what the kernel knows stays true.
pub const TTL: Duration = Duration::from_secs(86_400);

/// Answers one request, here or on another thread. Dropped without an answer it says EIO.
pub trait Reply<T>: Send + Sized + 'static {
    fn ok(self, value: T);
    fn refuse(self, errno: i32);

    fn done(self, r: Result<T>) {
        match r {
            Ok(value) => self.ok(value),
            Err(e) => self.refuse(code(&e)),
        }
    }
}

/// A listing that is answered name by name. `name` and `plus` are true when the answer is full and does not hold it.
pub trait ReplyNames: Send + Sized + 'static {
    fn name(&mut self, ino: InodeId, cookie: u64, kind: Kind, name: &[u8]) -> bool;
    fn plus(&mut self, cookie: u64, name: &[u8], l: &Located) -> bool;
    fn end(self);
    fn refuse(self, errno: i32);
}

/// A write: its bytes, and the reply to it.
pub trait Carries {
    /// The same where it may wait: the bytes of a session are its thread's only until the call returns.
    type Kept: Carries + Send + 'static;
    type Reply: Reply<Written>;
    fn bytes(&self) -> &[u8];
    fn keep(self) -> Self::Kept;
    fn into_reply(self) -> Self::Reply;
}

/// An inode by its name; `None`: there is none, which the kernel is to remember.
pub struct Entry(pub Option<Located>);

pub struct Attributes(pub Located);

pub struct Bytes(pub Buffer);

pub struct Written(pub u32);

pub struct Offset(pub u64);

pub struct Space(pub BackingSpace);

/// An extended attribute or their names, or how long that is.
pub enum Attribute {
    Length(u32),
    Value(Vec<u8>),
}

/// An open file.
pub struct Opened {
    pub fh: u64,
    pub how: OpenHow,
    pub keeps_pages: bool,
}

pub struct Created(pub Located, pub Opened);

impl Opened {
    /// A directory's.
    pub const NONE: Opened = Opened { fh: 0, how: OpenHow { writes: true, sync: false }, keeps_pages: false };

    /// As `FOPEN_*`.
    pub fn flags(&self) -> u32 {
        const KEEP_CACHE: u32 = 1 << 1;
        const NOFLUSH: u32 = 1 << 5;
        let keep = if self.keeps_pages { KEEP_CACHE } else { 0 };
        // A handle that never writes has nothing to say at close.
        keep | if self.how.writes { 0 } else { NOFLUSH }
    }
}

/// The errno of a refusal; a grave one is told the operator.
pub fn code(e: &Error) -> i32 {
    if is_grave(e) {
        log::warn!("a request failed: {e}");
    }
    errno(e)
}
