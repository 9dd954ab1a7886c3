//! Extended attributes of the very object behind a descriptor, an `O_PATH` one included.

use crate::sys::beneath::magic_path;
use crate::types::Name;
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;

/// The kernel's bounds (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const BYTES_MAX: usize = 64 * 1024;

/// Names that `list` found, with their values. Empty where the store has none.
pub fn all(fd: BorrowedFd<'_>) -> io::Result<Vec<(Name, Vec<u8>)>> {
    let path = magic_path(fd);
    let mut found = Vec::new();
    for name in names(&path)?.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match value(&path, name) {
            Ok(v) => found.push((Name::from(name), v)),
            // Gone since, or a label of a namespace that we may list but not read.
            Err(Errno::NODATA) => {}
            Err(_) if !name.starts_with(b"user.") => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

fn names(path: &str) -> io::Result<Vec<u8>> {
    sized(|buf| listxattr(path, buf)).or_else(|e| match e {
        Errno::OPNOTSUPP | Errno::NOSYS => Ok(Vec::new()),
        e => Err(e.into()),
    })
}

fn value(path: &str, name: &[u8]) -> Result<Vec<u8>, Errno> {
    sized(|buf| getxattr(path, name, buf))
}

/// Calls with a buffer on the stack first, then with the largest the kernel allows.
fn sized(mut get: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0u8; 1024];
    match get(&mut small) {
        Ok(n) => Ok(small[..n].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0u8; BYTES_MAX];
            let n = get(&mut large)?;
            large.truncate(n);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

/// Sets one, making or replacing it.
pub fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(setxattr(magic_path(fd), name, value, XattrFlags::empty())?)
}

/// Removes one; fine if it is not there.
pub fn remove(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match removexattr(magic_path(fd), name) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn round_trip() {
        let t = tempfile::tempdir().unwrap();
        let f = std::fs::File::create(t.path().join("f")).unwrap();
        let big = vec![7u8; 3000];
        match set(f.as_fd(), b"user.a", &big) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
            other => other.unwrap(),
        }
        set(f.as_fd(), b"user.empty", b"").unwrap();
        let mut got = all(f.as_fd()).unwrap();
        got.retain(|(n, _)| n.starts_with(b"user."));
        got.sort();
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].1, big);
        assert!(got[1].1.is_empty());
        remove(f.as_fd(), b"user.a").unwrap();
        remove(f.as_fd(), b"user.a").unwrap();
        assert!(!all(f.as_fd()).unwrap().iter().any(|(n, _)| &n[..] == b"user.a"));
    }
}
