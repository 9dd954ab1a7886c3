//! `.forelog/` of the backing: made at mount, emptied, removed after the last drain.

use super::attrs::{set_mode, set_times, times_of};
use super::{DirectoryBacking, OURS};
use crate::sys::{beneath, xattr};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Leftovers are single objects; nothing of ours is deeper.
const DEPTH_MAX: u32 = 256;

pub(super) const OPEN_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl DirectoryBacking {
    pub(super) fn prepare_now(&self) -> io::Result<()> {
        let tmp = self.make_ours()?;
        self.forget_staged();
        empty(tmp.as_fd(), DEPTH_MAX)?;
        if self.limits.get().is_none() {
            // A second prepare finds the same.
            let _ = self.limits.set(self.measure(tmp.as_fd())?);
        }
        Ok(())
    }

    /// Makes what is missing of `.forelog/`, closes it to others, and returns its `tmp`.
    pub(super) fn make_ours(&self) -> io::Result<Arc<OwnedFd>> {
        let mut kept = self.tmp.lock();
        let times = times_of(self.root())?;
        let made = make_dir(self.root(), OURS)?;
        let ours = self.open_ours()?;
        if made {
            self.restore_root_times(times);
        }
        self.check_owner(&ours)?;
        close_to_others(ours.as_fd())?;
        let make = |name| {
            make_dir(ours.as_fd(), name)?;
            let dir = openat(&ours, name, OPEN_DIR, Mode::empty())?;
            close_to_others(dir.as_fd())?;
            io::Result::Ok(dir)
        };
        make("park")?;
        let tmp = Arc::new(make("tmp")?);
        *kept = Some(tmp.clone());
        Ok(tmp)
    }

    pub(super) fn parked_now(&self) -> io::Result<Vec<String>> {
        let park = match self.own_dir("park") {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in Dir::read_from(&park)? {
            // Every name there was ours to give, so all are UTF-8.
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                found.push(name.to_string());
            }
        }
        found.sort();
        Ok(found)
    }

    pub(super) fn clean_now(&self) -> io::Result<()> {
        *self.tmp.lock() = None;
        self.forget_staged();
        let ours = match self.open_ours() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match openat(&ours, "tmp", OPEN_DIR, Mode::empty()) {
            Ok(tmp) => empty(tmp.as_fd(), DEPTH_MAX)?,
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        remove_if_empty(ours.as_fd(), "tmp")?;
        remove_if_empty(ours.as_fd(), "park")?;
        let times = times_of(self.root())?;
        if remove_if_empty(self.root(), OURS)? {
            self.restore_root_times(times);
        }
        Ok(())
    }

    fn forget_staged(&self) {
        self.unsynced.lock().removed_under(format!("{OURS}/tmp").as_bytes());
    }

    /// `.forelog/tmp`, kept open: checked once, it stays the one that was checked.
    pub(super) fn tmp_dir(&self) -> io::Result<Arc<OwnedFd>> {
        let mut kept = self.tmp.lock();
        if let Some(dir) = &*kept {
            return Ok(dir.clone());
        }
        let dir = Arc::new(self.own_dir("tmp")?);
        *kept = Some(dir.clone());
        Ok(dir)
    }

    /// A directory of ours beneath `.forelog`.
    pub(super) fn own_dir(&self, name: &str) -> io::Result<OwnedFd> {
        let ours = self.open_ours()?;
        let st = fstat(&ours)?;
        if st.st_uid != self.us() || st.st_mode & 0o022 != 0 {
            return Err(Errno::PERM.into());
        }
        Ok(openat(&ours, name, OPEN_DIR, Mode::empty())?)
    }

    fn open_ours(&self) -> io::Result<OwnedFd> {
        beneath::open(self.root(), OURS.as_bytes(), OPEN_DIR)
    }

    /// Refuses a `.forelog` that someone else made: they could swap what we stage. Who we are to
    /// the store is asked of the store, by the owner of a new file.
    fn check_owner(&self, ours: &OwnedFd) -> io::Result<()> {
        let theirs = fstat(ours)?.st_uid;
        let name = format!("probe-{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let _ = unlinkat(ours, name.as_str(), AtFlags::empty());
        let probe = openat(ours, name.as_str(), flags, Mode::from_raw_mode(0o600));
        let us = match &probe {
            Ok(fd) => fstat(fd)?.st_uid,
            Err(Errno::ACCESS | Errno::PERM) => rustix::process::geteuid().as_raw(),
            Err(e) => return Err((*e).into()),
        };
        if probe.is_ok() {
            unlinkat(ours, name.as_str(), AtFlags::empty())?;
        }
        if us != theirs {
            let text = format!(
                "{}/{OURS} belongs to uid {theirs} and we are uid {us}: run the gateway as that \
                 user, or remove it if no gateway uses this backing",
                self.shown
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        // A second prepare finds the same.
        let _ = self.us.set(us);
        Ok(())
    }

    /// Our own directory coming and going is not a change of the user's tree. Best effort: only
    /// the root's owner may.
    pub(super) fn restore_root_times(&self, (atime, mtime): (crate::types::Stamp, crate::types::Stamp)) {
        if let Err(e) = set_times(self.root(), atime, mtime) {
            log::debug!("{}: the times of the root stay moved: {e}", self.shown);
        }
    }
}

/// True if it was made now.
pub(super) fn make_dir(dir: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    match mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// 0700 and no access lists, else what is made inside inherits from the backing's root.
fn close_to_others(dir: BorrowedFd<'_>) -> io::Result<()> {
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match xattr::remove(dir, name.as_bytes()) {
            Err(e) if e.raw_os_error() != Some(libc::EOPNOTSUPP) => return Err(e),
            _ => {}
        }
    }
    set_mode(dir, 0o700)
}

/// False if it is not there or not empty.
pub(super) fn remove_if_empty(dir: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Removes an object of any kind with all that is in it; fine if it is not there.
pub(super) fn remove_any(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    remove_deep(dir, name, DEPTH_MAX)
}

fn remove_deep(dir: BorrowedFd<'_>, name: &[u8], depth: u32) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    if depth == 0 {
        return Err(Errno::LOOP.into());
    }
    // Its mode may shut us out.
    let handle = beneath::open(dir, name, OFlags::PATH | OFlags::DIRECTORY)?;
    set_mode(handle.as_fd(), 0o700)?;
    let inner = openat(dir, name, OPEN_DIR, Mode::empty())?;
    empty(inner.as_fd(), depth - 1)?;
    Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

fn empty(dir: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.iter().try_for_each(|name| remove_deep(dir, name, depth))
}
