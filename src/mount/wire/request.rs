//! Requests: every length is checked, since a request may come from a kernel newer than this program.

use super::IN_HEADER_BYTES;
use crate::fs::{SetAttrRequest, When};
use crate::mount::ops::{Caller, CopyRange, WriteAt};
use crate::types::{InodeId, Stamp};

/// A request that is shorter, or longer, than its kind is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

/// What all requests begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the whole request.
    pub bytes: u32,
    pub opcode: u32,
    /// The request's number.
    pub unique: u64,
    pub node: InodeId,
    pub by: Caller,
}

/// What is asked for. Names are without their NUL.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    Lookup {
        name: &'a [u8],
    },
    Getattr,
    Setattr(SetAttrRequest),
    Readlink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Mknod {
        name: &'a [u8],
        mode: u32,
        umask: u32,
        rdev: u32,
    },
    Mkdir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Remove {
        name: &'a [u8],
        dir: bool,
    },
    Rename {
        name: &'a [u8],
        to: InodeId,
        to_name: &'a [u8],
        flags: u32,
    },
    Link {
        ino: InodeId,
        name: &'a [u8],
    },
    Open {
        flags: i32,
    },
    Create {
        name: &'a [u8],
        mode: u32,
        umask: u32,
        flags: i32,
    },
    Read {
        offset: u64,
        size: u32,
    },
    /// The bytes are the payload.
    Write(WriteAt),
    Statfs,
    Release {
        fh: u64,
    },
    /// Of a file or a directory.
    Fsync,
    /// Of everything.
    Syncfs,
    /// The mount is gone, and its umount waits.
    Destroy,
    Setxattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: i32,
    },
    Getxattr {
        name: &'a [u8],
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a [u8],
    },
    Flush,
    Opendir,
    Readdir {
        offset: u64,
        size: u32,
    },
    Readdirplus {
        offset: u64,
        size: u32,
    },
    Releasedir,
    Ioctl {
        unrestricted: bool,
    },
    Fallocate {
        offset: u64,
        len: u64,
        mode: i32,
    },
    Lseek {
        offset: i64,
        whence: i32,
    },
    CopyRange(CopyRange),
    /// Kinds that we do not serve.
    Other,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub header: Header,
    pub call: Call<'a>,
}

/// Fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }
    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_ne_bytes)
    }
    fn i32(&mut self) -> Result<i32> {
        self.take().map(i32::from_ne_bytes)
    }
    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_ne_bytes)
    }
    fn i64(&mut self) -> Result<i64> {
        self.take().map(i64::from_ne_bytes)
    }
    fn skip(&mut self, bytes: usize) -> Result<()> {
        self.0 = self.0.get(bytes..).ok_or(Malformed)?;
        Ok(())
    }
    /// Up to a NUL.
    fn name(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(Malformed)?;
        let name = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(name)
    }
}

/// Only a name.
fn name(payload: &[u8]) -> Result<&[u8]> {
    Fields(payload).name()
}

/// A request from its three parts: the header, what its operation has of fixed size, and the rest.
pub fn decode<'a>(header: &[u8], op: &[u8], payload: &'a [u8]) -> Result<Request<'a>> {
    let mut f = Fields(header);
    let header = Header {
        bytes: f.u32()?,
        opcode: f.u32()?,
        unique: f.u64()?,
        node: InodeId(f.u64()?),
        by: Caller { uid: f.u32()?, gid: f.u32()?, tid: f.u32()? },
    };
    f.skip(4)?;
    // The whole length says how much of `op` this request filled; the rest is of an earlier one.
    let fixed = (header.bytes as usize).checked_sub(IN_HEADER_BYTES + payload.len()).ok_or(Malformed)?;
    let op = op.get(..fixed).ok_or(Malformed)?;
    Ok(Request { header, call: call(&header, Fields(op), payload)? })
}

fn call<'a>(h: &Header, mut f: Fields<'_>, payload: &'a [u8]) -> Result<Call<'a>> {
    Ok(match h.opcode {
        1 => Call::Lookup { name: name(payload)? },
        3 => Call::Getattr,
        4 => Call::Setattr(setattr(f)?),
        5 => Call::Readlink,
        6 => {
            let mut p = Fields(payload);
            Call::Symlink { name: p.name()?, target: p.name()? }
        }
        8 => {
            let (mode, rdev, umask) = (f.u32()?, f.u32()?, f.u32()?);
            Call::Mknod { name: name(payload)?, mode, umask, rdev }
        }
        9 => Call::Mkdir { mode: f.u32()?, umask: f.u32()?, name: name(payload)? },
        10 => Call::Remove { name: name(payload)?, dir: false },
        11 => Call::Remove { name: name(payload)?, dir: true },
        12 => rename(InodeId(f.u64()?), 0, payload)?,
        13 => Call::Link { ino: InodeId(f.u64()?), name: name(payload)? },
        14 => Call::Open { flags: f.i32()? },
        15 => {
            f.skip(8)?;
            Call::Read { offset: offset(f.u64()?)?, size: f.u32()? }
        }
        16 => write(f, payload)?,
        17 => Call::Statfs,
        18 => Call::Release { fh: f.u64()? },
        20 | 30 => Call::Fsync,
        21 => setxattr(f, payload)?,
        22 => Call::Getxattr { size: f.u32()?, name: name(payload)? },
        23 => Call::Listxattr { size: f.u32()? },
        24 => Call::Removexattr { name: name(payload)? },
        25 => Call::Flush,
        27 => Call::Opendir,
        28 => {
            f.skip(8)?;
            Call::Readdir { offset: f.u64()?, size: f.u32()? }
        }
        29 => Call::Releasedir,
        38 => Call::Destroy,
        50 => Call::Syncfs,
        35 => {
            let (flags, mode, umask) = (f.i32()?, f.u32()?, f.u32()?);
            Call::Create { name: name(payload)?, mode, umask, flags }
        }
        39 => {
            const UNRESTRICTED: u32 = 1 << 1;
            f.skip(8)?;
            Call::Ioctl { unrestricted: f.u32()? & UNRESTRICTED != 0 }
        }
        43 => {
            f.skip(8)?;
            Call::Fallocate { offset: offset(f.u64()?)?, len: offset(f.u64()?)?, mode: f.i32()? }
        }
        44 => {
            f.skip(8)?;
            Call::Readdirplus { offset: f.u64()?, size: f.u32()? }
        }
        45 => rename(InodeId(f.u64()?), f.u32()?, payload)?,
        46 => {
            f.skip(8)?;
            Call::Lseek { offset: f.i64()?, whence: f.i32()? }
        }
        47 => copy_range(h, f)?,
        _ => Call::Other,
    })
}

/// As off_t.
fn offset(n: u64) -> Result<u64> {
    i64::try_from(n).map(|_| n).map_err(|_| Malformed)
}

fn rename(to: InodeId, flags: u32, payload: &[u8]) -> Result<Call<'_>> {
    let mut p = Fields(payload);
    Ok(Call::Rename { name: p.name()?, to, to_name: p.name()?, flags })
}

fn write<'a>(mut f: Fields<'_>, payload: &'a [u8]) -> Result<Call<'a>> {
    const CACHE: u32 = 1 << 0;
    const KILL_SUIDGID: u32 = 1 << 2;
    let (fh, offset, size, flags) = (f.u64()?, offset(f.u64()?)?, f.u32()?, f.u32()?);
    if size as usize != payload.len() {
        return Err(Malformed);
    }
    Ok(Call::Write(WriteAt { fh, offset, cached: flags & CACHE != 0, kill: flags & KILL_SUIDGID != 0 }))
}

fn setxattr<'a>(mut f: Fields<'_>, payload: &'a [u8]) -> Result<Call<'a>> {
    let (size, flags) = (f.u32()?, f.i32()?);
    let mut p = Fields(payload);
    let name = p.name()?;
    let value = p.0.get(..size as usize).ok_or(Malformed)?;
    Ok(Call::Setxattr { name, value, flags })
}

fn copy_range(h: &Header, mut f: Fields<'_>) -> Result<Call<'static>> {
    f.skip(8)?;
    let from = (h.node, offset(f.u64()?)?);
    let to = InodeId(f.u64()?);
    f.skip(8)?;
    Ok(Call::CopyRange(CopyRange { from, to: (to, offset(f.u64()?)?), len: f.u64()? }))
}

fn setattr(mut f: Fields<'_>) -> Result<SetAttrRequest> {
    const MODE: u32 = 1 << 0;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const SIZE: u32 = 1 << 3;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    const CTIME: u32 = 1 << 10;
    let valid = f.u32()?;
    f.skip(4 + 8)?;
    let size = f.u64()?;
    f.skip(8)?;
    let secs = [f.i64()?, f.i64()?, f.i64()?];
    let nanos = [f.u32()?, f.u32()?, f.u32()?];
    let mode = f.u32()?;
    f.skip(4)?;
    let (uid, gid) = (f.u32()?, f.u32()?);
    f.skip(4)?;
    let at = |i: usize| Stamp { secs: secs[i], nanos: nanos[i].min(999_999_999) };
    let when = |i, now| if valid & now != 0 { When::Now } else { When::At(at(i)) };
    let has = |bit| valid & bit != 0;
    Ok(SetAttrRequest {
        mode: has(MODE).then_some(mode),
        uid: has(UID).then_some(uid),
        gid: has(GID).then_some(gid),
        size: has(SIZE).then_some(size),
        atime: has(ATIME).then(|| when(0, ATIME_NOW)),
        mtime: has(MTIME).then(|| when(1, MTIME_NOW)),
        ctime: has(CTIME).then(|| at(2)),
    })
}
