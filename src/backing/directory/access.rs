//! A gateway that is not root meets files and directories of its own user that it may not open:
//! a read-only directory to install into, a 0444 file to update, a 0000 file to read. Their modes
//! are widened for the moment of the call and put back; a death in that moment leaves at most the
//! owner's own bits too wide.

use super::DirectoryBacking;
use crate::sys::beneath::{self, magic_path};
use rustix::fs::{Mode, OFlags, chmod, fstat};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// What of a path's last object is needed beside search through the directories above it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// Nothing: it is only named.
    Not,
    /// Write access if it is a directory (a move changes its `..`).
    Dir,
    /// Access to its content.
    Any,
}

/// Modes to put back, outermost first.
#[derive(Default)]
struct Widened(Vec<(OwnedFd, Mode)>);

impl Drop for Widened {
    fn drop(&mut self) {
        for (fd, mode) in self.0.drain(..).rev() {
            if let Err(e) = chmod(magic_path(fd.as_fd()), mode) {
                log::error!("a mode widened for a moment could not be put back: {e}");
            }
        }
    }
}

impl DirectoryBacking {
    /// Calls `op`; when access is denied, once more with the owner's bits set along `walks`.
    /// `op` must be short and must not call this.
    pub(super) fn with_access<T>(
        &self,
        walks: &[(&[u8], Last)],
        mut op: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let first = {
            let _modes = self.modes.read();
            op()
        };
        match first {
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
                let _modes = self.modes.write();
                let widened = self.widen(walks);
                if widened.0.is_empty() { Err(e) } else { op() }
            }
            other => other,
        }
    }

    fn widen(&self, walks: &[(&[u8], Last)]) -> Widened {
        // The root, then every prefix; what fails here fails again in the call, with its errno.
        let mut widened = Widened::default();
        self.widen_one(b"", Last::Dir, &mut widened);
        for (path, last) in walks {
            for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
                self.widen_one(&path[..at], Last::Dir, &mut widened);
            }
            if *last != Last::Not && !path.is_empty() {
                self.widen_one(path, *last, &mut widened);
            }
        }
        widened
    }

    fn widen_one(&self, path: &[u8], last: Last, widened: &mut Widened) {
        let Ok(fd) = beneath::open(self.root(), path, OFlags::PATH) else { return };
        let Ok(st) = fstat(&fd) else { return };
        let (want, fits) = match st.st_mode & libc::S_IFMT {
            libc::S_IFDIR => (0o700, true),
            libc::S_IFREG => (0o600, last == Last::Any),
            _ => (0, false),
        };
        let mode = Mode::from_raw_mode(st.st_mode);
        let wider = mode | Mode::from_raw_mode(want);
        if fits && st.st_uid == self.us() && wider != mode && chmod(magic_path(fd.as_fd()), wider).is_ok() {
            widened.0.push((fd, mode));
        }
    }

    /// The uid that owns what we make in the store.
    pub(super) fn us(&self) -> u32 {
        self.us.get().copied().unwrap_or_else(|| rustix::process::geteuid().as_raw())
    }
}
