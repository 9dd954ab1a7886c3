//! Attributes: reading them from a stat, and setting them on an object in the one order that keeps
//! them all (owner, mode, extended attributes, times).

use super::DirectoryBacking;
use crate::backing::{BackingStat, Xattr};
use crate::sys::beneath::magic_path;
use crate::sys::xattr;
use crate::types::{Attr, BackingId, Kind, Stamp};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Stat, Timespec, Timestamps, Uid, chmod, chownat, fstat, utimensat,
};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

/// Marks ids that are no inode number of the root's device.
const FOREIGN: u64 = 1 << 60;

/// What to set; `None` leaves it alone.
pub(super) struct Wanted<'a> {
    pub mode: Option<u32>,
    pub owner: Option<(u32, u32)>,
    pub times: Option<(Stamp, Stamp)>,
    pub xattrs: Option<&'a [Xattr]>,
}

/// The kind in a raw mode.
pub(super) fn kind_of(raw_mode: u32) -> Option<Kind> {
    Some(match raw_mode & libc::S_IFMT {
        libc::S_IFREG => Kind::File,
        libc::S_IFDIR => Kind::Dir,
        libc::S_IFLNK => Kind::Symlink,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDev,
        libc::S_IFBLK => Kind::BlockDev,
        _ => return None,
    })
}

/// Mixes all bits (the finalizer of SplitMix64, Steele et al. 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl DirectoryBacking {
    /// The inode number on the root's device; elsewhere, or where it is too large, a hash with a
    /// mark that no plain one has.
    pub(super) fn id_of(&self, dev: u64, ino: u64) -> BackingId {
        if dev == self.dev && ino < FOREIGN {
            return BackingId(ino);
        }
        BackingId(FOREIGN | (mix(mix(dev).wrapping_add(ino)) & (FOREIGN - 1)))
    }

    pub(super) fn stat_of(&self, st: &Stat) -> io::Result<BackingStat> {
        let kind = kind_of(st.st_mode).ok_or(Errno::IO)?;
        let stamp = |secs, nanos| Stamp { secs, nanos };
        let attr = Attr {
            kind,
            mode: st.st_mode & 0o7777,
            uid: st.st_uid,
            gid: st.st_gid,
            rdev: st.st_rdev as u32,
            nlink: st.st_nlink as u32,
            size: st.st_size as u64,
            blocks: st.st_blocks as u64,
            atime: stamp(st.st_atime, st.st_atime_nsec as u32),
            mtime: stamp(st.st_mtime, st.st_mtime_nsec as u32),
            ctime: stamp(st.st_ctime, st.st_ctime_nsec as u32),
        };
        Ok(BackingStat { id: self.id_of(st.st_dev, st.st_ino), attr })
    }

    /// Sets what is wanted on the object behind `fd`, which is as `now` says. `path` is for
    /// messages.
    pub(super) fn apply(
        &self,
        fd: BorrowedFd<'_>,
        now: &Stat,
        wanted: &Wanted<'_>,
        path: &[u8],
    ) -> io::Result<()> {
        let kind = kind_of(now.st_mode).ok_or(Errno::IO)?;
        let chowned = match wanted.owner {
            Some(owner) => self.set_owner(fd, now, owner, path)?,
            None => false,
        };
        // A change of owner clears setuid and setgid.
        let mode = wanted.mode.unwrap_or(now.st_mode) & 0o7777;
        if kind != Kind::Symlink && (chowned || mode != now.st_mode & 0o7777) {
            set_mode(fd, mode)?;
        }
        if let Some(set) = wanted.xattrs {
            self.set_xattrs(fd, kind, mode, set, path)?;
        }
        match wanted.times {
            Some((atime, mtime)) => set_times(fd, atime, mtime),
            None => Ok(()),
        }
    }

    /// True if it changed anything.
    fn set_owner(
        &self,
        fd: BorrowedFd<'_>,
        now: &Stat,
        (uid, gid): (u32, u32),
        path: &[u8],
    ) -> io::Result<bool> {
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL.into());
        }
        let new_uid = (uid != now.st_uid).then(|| Uid::from_raw(uid));
        let new_gid = (gid != now.st_gid).then(|| Gid::from_raw(gid));
        if new_uid.is_none() && new_gid.is_none() {
            return Ok(false);
        }
        match chownat(CWD, magic_path(fd), new_uid, new_gid, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(e) => {
                if e == Errno::PERM && !self.warned_owner.swap(true, Ordering::Relaxed) {
                    log::warn!(
                        "{}: {} cannot be given to {uid}:{gid}: only a gateway run by root can \
                         change owners (said once)",
                        self.shown,
                        String::from_utf8_lossy(path)
                    );
                }
                Err(e.into())
            }
        }
    }

    /// Makes the set of extended attributes the wanted one. `mode` is the object's.
    fn set_xattrs(
        &self,
        fd: BorrowedFd<'_>,
        kind: Kind,
        mode: u32,
        wanted: &[Xattr],
        path: &[u8],
    ) -> io::Result<()> {
        let wide = mode | 0o600;
        let widen = || kind != Kind::Symlink && wide != mode && set_mode(fd, wide).is_ok();
        let denied = |e: &io::Error| e.raw_os_error() == Some(libc::EACCES);
        let mut acl = false;
        let mut result = self.change_xattrs(fd, wanted, path, &mut acl);
        // A user attribute needs a readable and writable file, whoever owns it.
        let widened = result.as_ref().is_err_and(denied) && widen();
        if widened {
            result = self.change_xattrs(fd, wanted, path, &mut acl);
        }
        // An access list writes into the mode and may clear setgid; the mode has the last word.
        if widened || (acl && kind != Kind::Symlink) {
            set_mode(fd, mode)?;
        }
        result
    }

    fn change_xattrs(
        &self,
        fd: BorrowedFd<'_>,
        wanted: &[Xattr],
        path: &[u8],
        acl: &mut bool,
    ) -> io::Result<()> {
        let now = xattr::all(fd)?;
        let gone = now.iter().filter(|(n, _)| !wanted.iter().any(|(w, _)| w == n));
        for (name, _) in gone.filter(|(n, _)| is_removable(n)) {
            *acl |= is_acl(name);
            self.allowed(name, path, xattr::remove(fd, name))?;
        }
        for (name, value) in wanted {
            if now.iter().any(|(n, v)| n == name && v == value) {
                continue;
            }
            *acl |= is_acl(name);
            self.allowed(name, path, xattr::set(fd, name, value))?;
        }
        Ok(())
    }

    /// Lets pass that we may not set an attribute of a namespace that is the administrator's.
    fn allowed(&self, name: &[u8], path: &[u8], result: io::Result<()>) -> io::Result<()> {
        let Err(e) = result else { return Ok(()) };
        let privileged = name.starts_with(b"security.") || name.starts_with(b"trusted.");
        let refused = [libc::EPERM, libc::EACCES, libc::EOPNOTSUPP, libc::EINVAL];
        if !privileged || !e.raw_os_error().is_some_and(|n| refused.contains(&n)) {
            return Err(e);
        }
        if !self.warned_xattr.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{}: {} of {} cannot be set here and is left out: {e} (said once)",
                self.shown,
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(path)
            );
        }
        Ok(())
    }
}

fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// False for labels that the system itself puts on every object.
fn is_removable(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name == b"security.capability"
        || is_acl(name)
}

pub(super) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(chmod(magic_path(fd), Mode::from_raw_mode(mode & 0o7777))?)
}

/// Sets both times of the object behind `fd`, a symlink's own included.
pub(super) fn set_times(fd: BorrowedFd<'_>, atime: Stamp, mtime: Stamp) -> io::Result<()> {
    // Larger values would mean "now" or "leave it" to the kernel.
    if atime.nanos >= 1_000_000_000 || mtime.nanos >= 1_000_000_000 {
        return Err(Errno::INVAL.into());
    }
    let spec = |s: Stamp| Timespec { tv_sec: s.secs, tv_nsec: s.nanos.into() };
    let times = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
    Ok(utimensat(CWD, magic_path(fd), &times, AtFlags::empty())?)
}

/// Both times, to be put back with `set_times`.
pub(super) fn times_of(fd: BorrowedFd<'_>) -> io::Result<(Stamp, Stamp)> {
    let st = fstat(fd)?;
    let stamp = |secs, nanos| Stamp { secs, nanos };
    Ok((stamp(st.st_atime, st.st_atime_nsec as u32), stamp(st.st_mtime, st.st_mtime_nsec as u32)))
}
