//! F0: the words every floor shares. No I/O, no policy.

use std::fmt;
use std::sync::Arc;

/// Number of an inode: the FUSE node id and `st_ino`. 1 is the root. Ids are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub u64);

impl InodeId {
    /// The root directory of the mount.
    pub const ROOT: InodeId = InodeId(1);
}

/// A writing process inside this gateway's lifetime: an index into the client table.
/// Steers placement and accounting only, never correctness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u32);

/// An interned program name (`/proc/PID/comm`) inside this gateway's lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProgramId(pub u32);

/// Global sequence number of a log record. 0 means "none"; the first record is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No record.
    pub const NONE: Lsn = Lsn(0);
}

/// Number of a log segment file. The file may be recycled: see its generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u32);

/// Identity of an object in the backing that survives renames there (a directory's `st_ino`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackingId(pub u64);

/// Where a record ends in the log: enough to ask whether it is durable, and to sync up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pos {
    pub segment: SegmentId,
    pub generation: u32,
    /// Byte just past the record in its segment.
    pub end: u32,
    pub lsn: Lsn,
}

/// One component of a path: any bytes but `/` and NUL, 1 to 255 of them.
pub type Name = Arc<[u8]>;

/// Longest name in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// A half-open range of bytes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    pub start: u64,
    pub end: u64,
}

impl ByteRange {
    /// Range of `len` bytes at `start`, clipped at `u64::MAX`.
    pub fn at(start: u64, len: u64) -> Self {
        ByteRange { start, end: start.saturating_add(len) }
    }
    /// Bytes in the range.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
    /// True when it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// A file time: seconds since 1970 (may be negative) and nanoseconds 0..1e9.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Stamp {
    pub secs: i64,
    pub nanos: u32,
}

impl Stamp {
    /// Whether `now` is this time, as far as stores keep times: some only whole seconds or every other.
    pub fn is_kept_as(self, now: Stamp) -> bool {
        let cut = |unit: u32| now.secs == self.secs && now.nanos == self.nanos / unit * unit;
        let even = now.nanos == 0 && now.secs % 2 == 0 && (now.secs - self.secs).abs() < 2;
        cut(1) || cut(100) || cut(1000) || cut(1_000_000_000) || even
    }
}

impl Stamp {
    /// From nanoseconds since 1970.
    pub fn from_ns(ns: i64) -> Self {
        Stamp { secs: ns.div_euclid(1_000_000_000), nanos: ns.rem_euclid(1_000_000_000) as u32 }
    }
}

/// What kind of object an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Kind {
    File = 1,
    Dir = 2,
    Symlink = 3,
    Fifo = 4,
    Socket = 5,
    CharDev = 6,
    BlockDev = 7,
}

impl Kind {
    /// From its number on disk.
    pub fn from_u8(n: u8) -> Option<Kind> {
        Some(match n {
            1 => Kind::File,
            2 => Kind::Dir,
            3 => Kind::Symlink,
            4 => Kind::Fifo,
            5 => Kind::Socket,
            6 => Kind::CharDev,
            7 => Kind::BlockDev,
            _ => return None,
        })
    }
}

/// The attributes of an object. `mode` holds the permission bits only (07777).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attr {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub nlink: u32,
    /// Bytes; for a symlink the length of its target.
    pub size: u64,
    /// Allocated 512-byte blocks, as `st_blocks`.
    pub blocks: u64,
    pub atime: Stamp,
    pub mtime: Stamp,
    pub ctime: Stamp,
}

/// How a write came in: with the inode, the "I/O port" of the Write Pattern History.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum How {
    Write = 1,
    Mmap = 2,
    Punch = 3,
    Truncate = 4,
    Open = 5,
    Create = 6,
    Fsync = 7,
    Release = 8,
}

impl How {
    /// The way with this number, if there is one.
    pub fn from_number(n: u32) -> Option<How> {
        use How::*;
        [Write, Mmap, Punch, Truncate, Open, Create, Fsync, Release].into_iter().find(|h| *h as u32 == n)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for InodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_a_store_rounded_is_the_same() {
        let at = |secs, nanos| Stamp { secs, nanos };
        let was = at(101, 123_456_789);
        for same in [was, at(101, 123_456_700), at(101, 123_456_000), at(101, 0), at(100, 0), at(102, 0)] {
            assert!(was.is_kept_as(same), "{same:?}");
        }
        for other in
            [at(101, 123_456_788), at(101, 1), at(102, 123_456_789), at(99, 0), at(104, 0), at(103, 0)]
        {
            assert!(!was.is_kept_as(other), "{other:?}");
        }
    }
}
