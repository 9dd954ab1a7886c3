//! New objects: made whole in `.forelog/tmp`, then renamed into place.

use super::attrs::Wanted;
use super::change::Writer;
use super::{DirectoryBacking, house};
use crate::backing::{BackingStat, Content, NewObject, Piece, staged_path};
use crate::sys::beneath;
use crate::types::Kind;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, ftruncate, linkat, mknodat, openat};
use rustix::fs::{mkdirat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

impl DirectoryBacking {
    pub(super) fn stage_now(
        &self,
        name: &str,
        object: &NewObject,
        content: Content<'_>,
    ) -> io::Result<BackingStat> {
        beneath::check_name(name.as_bytes())?;
        let path = staged_path(name).0;
        let since = self.unsynced.lock().begin_new(&path);
        let (tmp, fd) = match self.create_in_tmp(name, object) {
            // Someone removed our directory: make it again.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make_ours()?;
                self.create_in_tmp(name, object)?
            }
            other => other?,
        };
        match self.fill(&fd, name, object, content) {
            Ok(stat) => {
                if object.attr.kind == Kind::File {
                    self.unsynced.lock().end(path, since, fd);
                }
                Ok(stat)
            }
            Err(e) => {
                drop(fd);
                let _ = house::remove_any(tmp.as_fd(), name.as_bytes());
                Err(e)
            }
        }
    }

    fn create_in_tmp(&self, name: &str, object: &NewObject) -> io::Result<(Arc<OwnedFd>, OwnedFd)> {
        let tmp = self.tmp_dir()?;
        let fd = create(tmp.as_fd(), name, object)?;
        Ok((tmp, fd))
    }

    fn fill(
        &self,
        fd: &OwnedFd,
        name: &str,
        object: &NewObject,
        content: Content<'_>,
    ) -> io::Result<BackingStat> {
        if object.attr.kind == Kind::File {
            let mut to = Writer { fd: fd.as_fd(), fence: &self.fence };
            content(&mut |piece| match piece {
                Piece::Data { offset, bytes } => to.write(bytes, offset),
                // What is never written in a new file is a hole.
                Piece::Zero { .. } => Ok(()),
            })?;
            rustix::io::retry_on_intr(|| ftruncate(fd, object.attr.size))?;
        }
        let wanted = Wanted {
            mode: (object.attr.kind != Kind::Symlink).then_some(object.attr.mode),
            owner: Some((object.attr.uid, object.attr.gid)),
            times: Some((object.attr.atime, object.attr.mtime)),
            // Even an empty set: the directory's default access list may have given some.
            xattrs: Some(&object.xattrs),
        };
        self.apply(fd.as_fd(), &fstat(fd)?, &wanted, name.as_bytes())?;
        self.stat_of(&fstat(fd)?)
    }

    pub(super) fn stage_link_now(&self, name: &str, from: &[u8]) -> io::Result<()> {
        beneath::check_name(name.as_bytes())?;
        let tmp = self.tmp_dir()?;
        let (dir, old) = beneath::parent(self.root(), from)?;
        again_without_leftover(tmp.as_fd(), name, || {
            linkat(dir.as_fd(), old, &*tmp, name, AtFlags::empty())
        })?;
        Ok(())
    }

    pub(super) fn install_now(&self, name: &str, to: &[u8]) -> io::Result<()> {
        beneath::check_name(name.as_bytes())?;
        let tmp = self.tmp_dir()?;
        let (dir, last) = beneath::parent(self.root(), to)?;
        replace(tmp.as_fd(), name.as_bytes(), dir.as_fd(), last)?;
        // Where both names were links of one object, rename(2) did nothing.
        match unlinkat(&*tmp, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        self.unsynced.lock().renamed(&staged_path(name).0, to);
        Ok(())
    }
}

/// rename(2) that also puts a directory in the place of another kind, and the reverse.
pub(super) fn replace(from: BorrowedFd<'_>, old: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> io::Result<()> {
    let rename = || renameat(from, old, to, new);
    let in_the_way = match rename() {
        Err(Errno::NOTDIR) => AtFlags::empty(),
        Err(Errno::ISDIR) => AtFlags::REMOVEDIR,
        other => return Ok(other?),
    };
    unlinkat(to, new, in_the_way)?;
    Ok(rename()?)
}

/// Makes the bare object, only ours to enter, and opens it. A leftover of that name goes.
fn create(tmp: BorrowedFd<'_>, name: &str, object: &NewObject) -> io::Result<OwnedFd> {
    let private = Mode::from_raw_mode(0o600);
    let attr = &object.attr;
    let node = |kind| mknodat(tmp, name, kind, private, u64::from(attr.rdev));
    let dir_mode = Mode::from_raw_mode(0o700);
    let open = |flags| openat(tmp, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, private);
    if attr.kind == Kind::File {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        return again_without_leftover(tmp, name, || open(flags));
    }
    again_without_leftover(tmp, name, || match attr.kind {
        Kind::Dir => mkdirat(tmp, name, dir_mode),
        Kind::Symlink => symlinkat(&object.target[..], tmp, name),
        Kind::Fifo => node(FileType::Fifo),
        Kind::Socket => node(FileType::Socket),
        Kind::CharDev => node(FileType::CharacterDevice),
        Kind::BlockDev => node(FileType::BlockDevice),
        Kind::File => Err(Errno::INVAL),
    })?;
    Ok(open(OFlags::PATH)?)
}

fn again_without_leftover<T>(
    tmp: BorrowedFd<'_>,
    name: &str,
    mut make: impl FnMut() -> Result<T, Errno>,
) -> io::Result<T> {
    match rustix::io::retry_on_intr(&mut make) {
        Err(Errno::EXIST) => {
            house::remove_any(tmp, name.as_bytes())?;
            Ok(rustix::io::retry_on_intr(&mut make)?)
        }
        other => Ok(other?),
    }
}
