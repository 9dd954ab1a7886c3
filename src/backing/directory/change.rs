//! Changes of what is in the store, and removals.

use super::DirectoryBacking;
use super::access::Last;
use super::attrs::{Wanted, kind_of};
use super::stage::replace;
use crate::backing::fence::Fence;
use crate::backing::{AttrChange, BackingPath, Piece, Update, parked_path};
use crate::sys::beneath;
use crate::types::Kind;
use rustix::fs::{
    AtFlags, FallocateFlags, OFlags, Stat, fallocate, fstat, ftruncate, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Zeros written at once where a hole cannot be punched.
const ZERO_PIECE_BYTES: usize = 64 * 1024;

static ZEROS: [u8; ZERO_PIECE_BYTES] = [0; ZERO_PIECE_BYTES];

/// Writes into an open file; short writes go on, interrupted ones again. Each asks whether the backing is ours still.
pub(super) struct Writer<'a> {
    pub fd: BorrowedFd<'a>,
    pub fence: &'a Fence,
}

impl Writer<'_> {
    pub(super) fn write(&mut self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            self.fence.check()?;
            match rustix::io::pwrite(self.fd, bytes, offset) {
                Ok(0) => return Err(Errno::IO.into()),
                Ok(n) => {
                    bytes = &bytes[n..];
                    offset += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Makes `[offset, end)` read as zeros; the file is at least `end` long.
    fn zero(&mut self, offset: u64, end: u64) -> io::Result<()> {
        if offset >= end {
            return Ok(());
        }
        self.fence.check()?;
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::io::retry_on_intr(|| fallocate(self.fd, how, offset, end - offset)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => {}
            other => return Ok(other?),
        }
        let mut at = offset;
        while at < end {
            let n = (end - at).min(ZERO_PIECE_BYTES as u64);
            self.write(&ZEROS[..n as usize], at)?;
            at += n;
        }
        Ok(())
    }
}

impl DirectoryBacking {
    /// In place. As any write does, it may clear setuid: set the mode afterwards.
    pub(super) fn update_now(&self, path: &BackingPath, update: Update<'_>) -> io::Result<()> {
        let since = self.unsynced.lock().begin(&path.0);
        let open = || self.open_regular(&path.0, OFlags::WRONLY);
        let fd = self.with_access(&[(&path.0, Last::Any)], open)?;
        let result = write_update(fd.as_fd(), update, &self.fence);
        // What was written before a failure is to be synced all the same.
        self.unsynced.lock().end(path.0.clone(), since, fd);
        result
    }

    pub(super) fn set_attr_now(&self, path: &[u8], kind: Kind, change: &AttrChange) -> io::Result<()> {
        let fd = beneath::open(self.root(), path, OFlags::PATH)?;
        let now = fstat(&fd)?;
        if kind_of(now.st_mode) != Some(kind) {
            // Something else has been put there: never change what we do not know.
            return Err(Errno::STALE.into());
        }
        let wanted = Wanted {
            mode: change.mode,
            owner: change.owner,
            times: change.times,
            xattrs: change.xattrs.as_deref(),
        };
        self.apply(fd.as_fd(), &now, &wanted, path)
    }

    pub(super) fn rename_now(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        let (from_dir, old) = beneath::parent(self.root(), from)?;
        let (to_dir, new) = beneath::parent(self.root(), to)?;
        let look = |dir, name| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let source = look(from_dir.as_fd(), old)?;
        // Two links of one object: rename(2) would leave both.
        let is_twin = |target: Stat| {
            (target.st_dev, target.st_ino) == (source.st_dev, source.st_ino)
                && source.st_nlink > 1
                && kind_of(source.st_mode) != Some(Kind::Dir)
        };
        let twin = source.st_nlink > 1 && look(to_dir.as_fd(), new).is_ok_and(is_twin);
        replace(from_dir.as_fd(), old, to_dir.as_fd(), new)?;
        if twin {
            unlinkat(from_dir.as_fd(), old, AtFlags::empty())?;
        }
        self.unsynced.lock().renamed(from, to);
        Ok(())
    }

    pub(super) fn park_now(&self, from: &[u8], name: &str) -> io::Result<()> {
        beneath::check_name(name.as_bytes())?;
        let park = self.own_dir("park")?;
        let (dir, old) = beneath::parent(self.root(), from)?;
        renameat(dir.as_fd(), old, &park, name)?;
        self.unsynced.lock().renamed(from, &parked_path(name).0);
        Ok(())
    }

    pub(super) fn unlink_now(&self, path: &[u8]) -> io::Result<()> {
        let (dir, name) = beneath::parent(self.root(), path)?;
        // Closed first: NFS keeps an open file as `.nfsXXXX`.
        self.unsynced.lock().removed(path);
        Ok(unlinkat(dir.as_fd(), name, AtFlags::empty())?)
    }

    pub(super) fn rmdir_now(&self, path: &[u8]) -> io::Result<()> {
        let (dir, name) = beneath::parent(self.root(), path)?;
        Ok(unlinkat(dir.as_fd(), name, AtFlags::REMOVEDIR)?)
    }
}

fn write_update(fd: BorrowedFd<'_>, update: Update<'_>, fence: &Fence) -> io::Result<()> {
    let mut end = fstat(fd)?.st_size as u64;
    let cut = |len: u64| rustix::io::retry_on_intr(|| ftruncate(fd, len));
    if end > update.keep {
        cut(update.keep)?;
        end = update.keep;
    }
    let mut to = Writer { fd, fence };
    (update.content)(&mut |piece| match piece {
        Piece::Data { offset, bytes } => {
            to.write(bytes, offset)?;
            end = end.max(offset + bytes.len() as u64);
            Ok(())
        }
        // Beyond the end it is zeros already.
        Piece::Zero { offset, len } => to.zero(offset, offset.saturating_add(len).min(end)),
    })?;
    if end != update.size {
        fence.check()?;
        cut(update.size)?;
    }
    Ok(())
}
