//! What the filesystem of a directory takes, found by trying: a change that it would refuse has to be
//! refused when a program asks for it, not at the drain, when it was acknowledged long ago.

use super::DirectoryBacking;
use crate::backing::{Limits, Names};
use crate::sys::beneath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstatfs, ftruncate, linkat, mknodat, openat};
use rustix::fs::{symlinkat, unlinkat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const EXT: i64 = 0xEF53;

/// Filesystems of the Linux kernel that reach their store over a network.
const REMOTE: [i64; 8] =
    [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x0102_1997, 0x00C3_6400, 0x6573_5546, 0x0BD0_0BD0];

const PROBE: &str = "probe";
const SECOND: &str = "probe-2";

fn magic(root: &OwnedFd) -> io::Result<i64> {
    Ok(fstatfs(root)?.f_type as i64 & 0xFFFF_FFFF)
}

/// Whether any call may take as long as a network does.
pub(super) fn remote(root: &OwnedFd) -> io::Result<bool> {
    Ok(REMOTE.contains(&magic(root)?))
}

impl DirectoryBacking {
    /// Tries what this filesystem takes, with objects in `tmp`, which is empty and where nobody else sees them.
    pub(super) fn measure(&self, tmp: BorrowedFd<'_>) -> io::Result<Limits> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(tmp, PROBE, flags, Mode::from_raw_mode(0o600))?;
        let takes = |r: rustix::io::Result<()>| {
            if r.is_ok() {
                let _ = unlinkat(tmp, SECOND, AtFlags::empty());
            }
            // Any other trouble is not a limit: it is told where it matters.
            !matches!(r, Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS))
        };
        let links = takes(linkat(tmp, PROBE, tmp, SECOND, AtFlags::empty()));
        let limits = Limits {
            xattr_bytes_max: self.xattr_bytes()?,
            file_bytes_max: largest(file.as_fd()),
            links_max: if links { links_max(&self.root) } else { 1 },
            name_bytes_max: fstatfs(&self.root)?.f_namelen as usize,
            symlinks: takes(symlinkat("x", tmp, SECOND)),
            access_lists: self.has_access_lists(),
            names: Names::ALL,
            special: takes(mknodat(tmp, SECOND, FileType::Fifo, Mode::from_raw_mode(0o600), 0)),
        };
        unlinkat(tmp, PROBE, AtFlags::empty())?;
        Ok(limits)
    }

    fn has_access_lists(&self) -> bool {
        let mut probe = [0u8; 1];
        let path = beneath::magic_path(self.root.as_fd());
        match rustix::fs::getxattr(path, "system.posix_acl_default", &mut probe[..]) {
            Ok(_) | Err(Errno::NODATA | Errno::RANGE) => true,
            Err(_) => false,
        }
    }

    fn xattr_bytes(&self) -> io::Result<usize> {
        let mut probe = [0u8; 1];
        let path = beneath::magic_path(self.root.as_fd());
        if let Err(Errno::OPNOTSUPP) = rustix::fs::getxattr(path, "user.forelog", &mut probe[..]) {
            return Ok(0);
        }
        // One block of ext4 holds all attributes of an inode; others take at least 64 KiB.
        Ok(if magic(&self.root)? == EXT { 3900 } else { 64 << 10 })
    }
}

/// Largest size that the empty file `fd` can be given, by halving the range.
fn largest(fd: BorrowedFd<'_>) -> u64 {
    let takes = |n: u64| !matches!(ftruncate(fd, n), Err(Errno::FBIG | Errno::INVAL | Errno::OVERFLOW));
    let (mut low, mut high) = (0, i64::MAX as u64);
    if takes(high) {
        return high;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if takes(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Most names of one file, as the C library knows the filesystem.
fn links_max(root: &OwnedFd) -> u32 {
    crate::sys::limits::links_max(root.as_fd()).unwrap_or(Limits::LINKS_MAX).min(Limits::LINKS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::Backing;

    #[test]
    fn what_is_measured_holds() {
        let dir = tempfile::tempdir().unwrap();
        let b = DirectoryBacking::open(dir.path()).unwrap();
        b.prepare().unwrap();
        let l = b.limits();
        let f = std::fs::File::create(dir.path().join("f")).unwrap();
        f.set_len(l.file_bytes_max).unwrap();
        if l.file_bytes_max < i64::MAX as u64 {
            f.set_len(l.file_bytes_max + 1).unwrap_err();
        }
        assert!(l.file_bytes_max >= 1 << 31 && l.links_max > 1 && l.symlinks && l.name_bytes_max >= 255);
        let left = std::fs::read_dir(dir.path().join(".forelog/tmp")).unwrap().count();
        assert_eq!(left, 0, "no probe stays");
    }
}
