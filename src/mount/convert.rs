//! Values of fuser's and ours.

use crate::fs::Located;
use crate::fs::SetAttrRequest;
use crate::fs::When;
use crate::types::{Attr, InodeId, Kind, Stamp};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn file_type(k: Kind) -> FileType {
    match k {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDev => FileType::CharDevice,
        Kind::BlockDev => FileType::BlockDevice,
    }
}

fn system_time(s: Stamp) -> SystemTime {
    let part = Duration::from_nanos(s.nanos as u64);
    let whole = Duration::from_secs(s.secs.unsigned_abs());
    let t = if s.secs >= 0 {
        UNIX_EPOCH.checked_add(whole).and_then(|t| t.checked_add(part))
    } else {
        UNIX_EPOCH.checked_sub(whole).and_then(|t| t.checked_add(part))
    };
    t.unwrap_or(UNIX_EPOCH)
}

/// A time as fuser 0.18.0 hands it over: before 1970 it subtracts the nanoseconds where the kernel
/// meant them added, which is undone here.
pub fn stamp(t: SystemTime) -> Stamp {
    match t.duration_since(UNIX_EPOCH) {
        Ok(d) => Stamp { secs: d.as_secs() as i64, nanos: d.subsec_nanos() },
        Err(e) => {
            let d = e.duration();
            Stamp { secs: -(d.as_secs() as i64), nanos: d.subsec_nanos() }
        }
    }
}

pub fn when(t: TimeOrNow) -> When {
    match t {
        TimeOrNow::Now => When::Now,
        TimeOrNow::SpecificTime(t) => When::At(stamp(t)),
    }
}

pub fn attr(l: &Located) -> FileAttr {
    file_attr(l.ino, &l.attr)
}

pub fn file_attr(ino: InodeId, a: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: a.size,
        blocks: a.blocks,
        atime: system_time(a.atime),
        mtime: system_time(a.mtime),
        ctime: system_time(a.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(a.kind),
        perm: a.mode as u16,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// The entry that says "no such name, remember it": inode 0.
pub fn absent() -> FileAttr {
    let zero = Stamp::default();
    let a = Attr {
        kind: Kind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        nlink: 0,
        size: 0,
        blocks: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
    };
    file_attr(InodeId(0), &a)
}

/// What a setattr asks for.
#[allow(clippy::too_many_arguments)]
pub fn set_attr(
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
    ctime: Option<SystemTime>,
) -> SetAttrRequest {
    SetAttrRequest {
        mode,
        uid,
        gid,
        size,
        atime: atime.map(when),
        mtime: mtime.map(when),
        ctime: ctime.map(stamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_both_ways() {
        let s = Stamp { secs: -2, nanos: 750_000_000 };
        // What fuser makes of (-2 s, 750 ms): 2.75 s before 1970.
        assert_eq!(stamp(UNIX_EPOCH - Duration::from_millis(2750)), s);
        assert_eq!(system_time(s), UNIX_EPOCH - Duration::from_millis(1250));
        let far = Stamp { secs: 1 << 33, nanos: 1 };
        assert_eq!(stamp(system_time(far)), far);
    }
}
