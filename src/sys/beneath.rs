//! Opens beneath a root directory: never out of it, never through a symlink or a magic link.

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of a path given to the kernel at once; longer ones are walked in steps (`PATH_MAX` is 4096).
const STEP_BYTES_MAX: usize = 4000;

/// `openat2` may say EAGAIN while a rename or mount goes on beside it.
const AGAIN_MAX: u32 = 64;

/// Refuses a path with an empty, `.` or `..` component, or with a NUL. The empty path is the root.
pub fn check_path(path: &[u8]) -> io::Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    let bad = |c: &[u8]| c.is_empty() || c == b"." || c == b".." || c.contains(&0);
    if path.split(|b| *b == b'/').any(bad) {
        return Err(Errno::INVAL.into());
    }
    Ok(())
}

/// Refuses a name that is not exactly one component.
pub fn check_name(name: &[u8]) -> io::Result<()> {
    if name.is_empty() || name.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    check_path(name)
}

/// Splits into the parent's path and the last name. EBUSY for the root, which has neither.
pub fn split(path: &[u8]) -> io::Result<(&[u8], &[u8])> {
    check_path(path)?;
    match path.iter().rposition(|b| *b == b'/') {
        _ if path.is_empty() => Err(Errno::BUSY.into()),
        Some(at) => Ok((&path[..at], &path[at + 1..])),
        None => Ok((b"", path)),
    }
}

/// Opens `path` beneath `root`, with `O_NOFOLLOW` and `O_CLOEXEC` added to `flags`.
/// A symlink anywhere on the way is ELOOP; at the end too, unless `flags` has `O_PATH`.
pub fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    check_path(path)?;
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() > STEP_BYTES_MAX {
        let cut = rest[..=STEP_BYTES_MAX].iter().rposition(|b| *b == b'/');
        let cut = cut.ok_or(Errno::NAMETOOLONG)?;
        let from = held.as_ref().map_or(root, |fd| fd.as_fd());
        held = Some(step(from, &rest[..cut], OFlags::PATH | OFlags::DIRECTORY)?);
        rest = &rest[cut + 1..];
    }
    step(held.as_ref().map_or(root, |fd| fd.as_fd()), rest, flags)
}

fn step(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let mut tries = 0;
    loop {
        match openat2(from, path, flags, Mode::empty(), how) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if tries < AGAIN_MAX => tries += 1,
            other => return Ok(other?),
        }
    }
}

/// A directory to make `*at` calls in: the root itself, or one opened for the purpose.
pub enum Dir<'a> {
    Root(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Dir::Root(fd) => *fd,
            Dir::Opened(fd) => fd.as_fd(),
        }
    }
}

/// The directory at `path`, for `*at` calls only.
pub fn dir<'a>(root: BorrowedFd<'a>, path: &[u8]) -> io::Result<Dir<'a>> {
    if path.is_empty() {
        return Ok(Dir::Root(root));
    }
    Ok(Dir::Opened(open(root, path, OFlags::PATH | OFlags::DIRECTORY)?))
}

/// The directory that holds `path`, and the last name in it.
pub fn parent<'a, 'p>(root: BorrowedFd<'a>, path: &'p [u8]) -> io::Result<(Dir<'a>, &'p [u8])> {
    let (above, name) = split(path)?;
    Ok((dir(root, above)?, name))
}

/// A path naming the very object behind `fd` (also an `O_PATH` one, also a symlink), for calls
/// that take no such descriptor. Needs `/proc`.
pub fn magic_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root(path: &std::path::Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    #[test]
    fn bad_paths_are_refused() {
        for p in [&b"/a"[..], b"a//b", b"a/", b".", b"a/..", b"../a", b"a/./b", b"a\0b"] {
            assert!(check_path(p).is_err(), "{p:?}");
        }
        assert!(check_path(b"a/..b/.c").is_ok());
        assert!(check_name(b"a/b").is_err());
        assert!(check_name(b"").is_err());
        assert_eq!(split(b"").unwrap_err().raw_os_error(), Some(libc::EBUSY));
        assert_eq!(split(b"a/b/c").unwrap(), (&b"a/b"[..], &b"c"[..]));
    }

    #[test]
    fn symlinks_are_never_followed() {
        let t = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), b"s").unwrap();
        std::fs::create_dir(t.path().join("d")).unwrap();
        symlink(outside.path(), t.path().join("out")).unwrap();
        symlink("d", t.path().join("in")).unwrap();
        let r = root(t.path());
        for p in [&b"out/secret"[..], b"out", b"in"] {
            let e = open(r.as_fd(), p, OFlags::RDONLY).unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::ELOOP), "{p:?}");
        }
        let fd = open(r.as_fd(), b"in", OFlags::PATH).unwrap();
        let st = rustix::fs::fstat(&fd).unwrap();
        assert_eq!(st.st_mode & libc::S_IFMT, libc::S_IFLNK);
        let target = rustix::fs::readlink(magic_path(fd.as_fd()), Vec::new()).unwrap();
        assert!(target.to_bytes().ends_with(b"/in"), "{target:?}");
    }

    #[test]
    fn paths_longer_than_the_kernel_takes() {
        let t = tempfile::tempdir().unwrap();
        let r = root(t.path());
        let name = "x".repeat(250);
        let mut at: OwnedFd = r.try_clone().unwrap();
        let mut path = Vec::new();
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o700)).unwrap();
            at = open(at.as_fd(), name.as_bytes(), OFlags::PATH).unwrap();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
        }
        let far = open(r.as_fd(), &path, OFlags::PATH).unwrap();
        let (a, b) = (rustix::fs::fstat(&far).unwrap(), rustix::fs::fstat(&at).unwrap());
        assert_eq!(a.st_ino, b.st_ino);
    }
}
