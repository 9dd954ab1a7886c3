//! Reads of the store.

use super::attrs::kind_of;
use super::{DirectoryBacking, OURS};
use crate::backing::{BackingEntry, BackingFile, BackingSpace, BackingStat, Xattr};
use crate::sys::{beneath, xattr};
use crate::types::{Kind, Name};
use rustix::fs::{AtFlags, Dir, DirEntry, FileType, OFlags, SeekFrom, fstat, statat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How a regular file is opened: never to hang on a pipe, never to become our terminal.
pub(super) const PLAIN: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);

impl DirectoryBacking {
    pub(super) fn stat_now(&self, path: &[u8]) -> io::Result<BackingStat> {
        if path.is_empty() {
            return self.stat_of(&fstat(self.root())?);
        }
        let (dir, name) = beneath::parent(self.root(), path)?;
        self.stat_of(&statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    pub(super) fn list_now(&self, path: &[u8]) -> io::Result<Vec<BackingEntry>> {
        let fd = beneath::open(self.root(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let dev = fstat(&fd)?.st_dev;
        let mut listing = Listing { backing: self, dev, trusted: None };
        let mut found = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let ours = path.is_empty() && name == OURS.as_bytes();
            if name == b"." || name == b".." || ours || beneath::check_name(name).is_err() {
                continue;
            }
            if let Some(found_entry) = listing.entry(fd.as_fd(), &entry)? {
                found.push(found_entry);
            }
        }
        Ok(found)
    }

    /// A regular file opened as `flags` says; anything else is refused (EISDIR, ELOOP, EINVAL)
    /// without an effect on it.
    pub(super) fn open_regular(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        // Looked at first: opening a device may act on it.
        let (dir, name) = beneath::parent(self.root(), path).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => Errno::ISDIR.into(),
            _ => e,
        })?;
        regular(statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)?;
        let fd = beneath::open(dir.as_fd(), name, flags | PLAIN)?;
        regular(fstat(&fd)?.st_mode)?;
        Ok(fd)
    }

    pub(super) fn open_now(&self, path: &[u8]) -> io::Result<ReadFile> {
        let flags = OFlags::RDONLY | OFlags::NOATIME;
        let fd = match self.open_regular(path, flags) {
            // Not our file: then its atime moves.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => self.open_regular(path, OFlags::RDONLY)?,
            other => other?,
        };
        Ok(ReadFile { fd })
    }

    pub(super) fn readlink_now(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let (dir, name) = beneath::parent(self.root(), path)?;
        Ok(rustix::fs::readlinkat(dir.as_fd(), name, Vec::new())?.into_bytes())
    }

    pub(super) fn xattrs_now(&self, path: &[u8]) -> io::Result<Vec<Xattr>> {
        let fd = beneath::open(self.root(), path, OFlags::PATH)?;
        xattr::all(fd.as_fd())
    }

    pub(super) fn space_now(&self) -> io::Result<BackingSpace> {
        let v = rustix::io::retry_on_intr(|| rustix::fs::fstatvfs(&self.root))?;
        Ok(BackingSpace {
            block_bytes: v.f_frsize,
            blocks: v.f_blocks,
            blocks_free: v.f_bfree,
            blocks_available: v.f_bavail,
            files: v.f_files,
            files_free: v.f_ffree,
            name_bytes_max: v.f_namemax.min(u64::from(u32::MAX)) as u32,
        })
    }
}

fn regular(raw_mode: u32) -> io::Result<()> {
    match raw_mode & libc::S_IFMT {
        libc::S_IFREG => Ok(()),
        libc::S_IFDIR => Err(Errno::ISDIR.into()),
        libc::S_IFLNK => Err(Errno::LOOP.into()),
        _ => Err(Errno::INVAL.into()),
    }
}

struct Listing<'a> {
    backing: &'a DirectoryBacking,
    dev: u64,
    /// Whether the listing's inode numbers are those that stat says, once that was tried. They are
    /// not on some overlays, and never for a directory that is a mount point.
    trusted: Option<bool>,
}

impl Listing<'_> {
    /// `None` when the entry went away meanwhile.
    fn entry(&mut self, dir: BorrowedFd<'_>, e: &DirEntry) -> io::Result<Option<BackingEntry>> {
        let name = Name::from(e.file_name().to_bytes());
        let listed = match e.file_type() {
            FileType::Directory | FileType::Unknown => None,
            other => kind_of(other.as_raw_mode()),
        };
        if let (Some(kind), Some(true)) = (listed, self.trusted) {
            let id = self.backing.id_of(self.dev, e.ino());
            return Ok(Some(BackingEntry { name, id, kind }));
        }
        let st = match statat(dir, e.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(st) => st,
            Err(Errno::NOENT) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        let Some(kind) = kind_of(st.st_mode) else { return Ok(None) };
        if kind != Kind::Dir && self.trusted.is_none() {
            self.trusted = Some((st.st_dev, st.st_ino) == (self.dev, e.ino()));
        }
        let id = self.backing.id_of(st.st_dev, st.st_ino);
        Ok(Some(BackingEntry { name, id, kind }))
    }
}

/// An open file of the store.
pub(super) struct ReadFile {
    fd: OwnedFd,
}

impl ReadFile {
    fn size(&self) -> io::Result<u64> {
        Ok(fstat(&self.fd)?.st_size as u64)
    }

    /// `Ok(None)` past the last one; EINVAL is a store that does not know holes.
    fn seek(&self, to: SeekFrom) -> Result<Option<u64>, Errno> {
        match rustix::io::retry_on_intr(|| rustix::fs::seek(&self.fd, to)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl BackingFile for ReadFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match self.seek(SeekFrom::Data(offset)) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((offset < self.size()?).then_some(offset)),
            other => Ok(other?),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match self.seek(SeekFrom::Hole(offset)) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset.max(self.size()?)),
            other => Ok(other?.unwrap_or(offset)),
        }
    }
}
