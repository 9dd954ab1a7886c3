//! Work on a tree by names beneath one directory, never through a symlink: for undo, which may run as root in directories
//! that others write to.

use super::{beneath, xattr};
use crate::types::{Attr, InodeId, Kind, Name, Stamp};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A directory and all beneath it; paths are relative to it, the empty one is the directory itself.
pub struct Tree {
    root: OwnedFd,
}

/// An open file.
pub struct Open {
    file: File,
}

/// What stands somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct There {
    pub ino: InodeId,
    pub attr: Attr,
}

fn kind_of(mode: u32) -> Kind {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDev,
        FileType::BlockDevice => Kind::BlockDev,
        _ => Kind::File,
    }
}

fn there(st: &Stat) -> There {
    let stamp = |secs, nanos| Stamp { secs, nanos };
    let attr = Attr {
        kind: kind_of(st.st_mode),
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
    There { ino: InodeId(st.st_ino), attr }
}

fn spec(s: Stamp) -> Timespec {
    Timespec { tv_sec: s.secs, tv_nsec: s.nanos as _ }
}

impl Tree {
    /// The directory at `path`, which is followed if it is a symlink.
    pub fn open(path: &Path) -> io::Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Tree { root: fs::open(path, flags, Mode::empty())? })
    }

    fn fd(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        beneath::open(self.root.as_fd(), path, flags)
    }

    /// What stands at a path; `None`: nothing.
    pub fn stat(&self, path: &[u8]) -> io::Result<Option<There>> {
        let st = match path {
            b"" => fs::fstat(&self.root)?,
            _ => {
                let r = beneath::parent(self.root.as_fd(), path)
                    .and_then(|(d, name)| Ok(fs::statat(&d, name, AtFlags::SYMLINK_NOFOLLOW)?));
                match r {
                    Ok(st) => st,
                    Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                        return Ok(None);
                    }
                    Err(e) => return Err(e),
                }
            }
        };
        Ok(Some(there(&st)))
    }

    /// Names in a directory, sorted.
    pub fn list(&self, path: &[u8]) -> io::Result<Vec<Name>> {
        let fd = self.fd(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut out = Vec::new();
        for entry in fs::Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                out.push(Name::from(name));
            }
        }
        out.sort();
        Ok(out)
    }

    /// Opens a file to read.
    pub fn read(&self, path: &[u8]) -> io::Result<Open> {
        Ok(Open { file: self.fd(path, OFlags::RDONLY | OFlags::NONBLOCK)?.into() })
    }

    /// Makes a file that nobody else may open.
    pub fn create(&self, path: &[u8]) -> io::Result<Open> {
        let (d, name) = beneath::parent(self.root.as_fd(), path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // What `parent` gives is for paths only; a file can be made by it all the same.
        Ok(Open { file: fs::openat(&d, name, flags, Mode::from_raw_mode(0o600))?.into() })
    }

    /// Makes a directory that nobody else may enter.
    pub fn mkdir(&self, path: &[u8]) -> io::Result<()> {
        let (d, name) = beneath::parent(self.root.as_fd(), path)?;
        Ok(fs::mkdirat(&d, name, Mode::from_raw_mode(0o700))?)
    }

    /// Makes a symlink.
    pub fn symlink(&self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let (d, name) = beneath::parent(self.root.as_fd(), path)?;
        Ok(fs::symlinkat(std::ffi::OsStr::from_bytes(target), &d, name)?)
    }

    /// Target of a symlink.
    pub fn readlink(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let (d, name) = beneath::parent(self.root.as_fd(), path)?;
        Ok(fs::readlinkat(&d, name, Vec::new())?.into_bytes())
    }

    /// Renames, replacing what may be replaced.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (a, from) = beneath::parent(self.root.as_fd(), from)?;
        let (b, to) = beneath::parent(self.root.as_fd(), to)?;
        Ok(fs::renameat(&a, from, &b, to)?)
    }

    /// Makes a further name of a file.
    pub fn link(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (a, from) = beneath::parent(self.root.as_fd(), from)?;
        let (b, to) = beneath::parent(self.root.as_fd(), to)?;
        Ok(fs::linkat(&a, from, &b, to, AtFlags::empty())?)
    }

    /// Removes a directory that is empty, or anything else.
    pub fn remove(&self, path: &[u8], dir: bool) -> io::Result<()> {
        let (d, name) = beneath::parent(self.root.as_fd(), path)?;
        let flags = if dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(fs::unlinkat(&d, name, flags)?)
    }

    /// Sets owner, extended attributes (if given), mode and times, in this order. Returns whether the owner could be set:
    /// only root gives files away. Without it no setuid or setgid bit is set. `expected`: nothing else is touched.
    pub fn set(
        &self,
        path: &[u8],
        attr: &Attr,
        xattrs: Option<&[(Name, Vec<u8>)]>,
        expected: Option<InodeId>,
    ) -> io::Result<bool> {
        let fd = self.fd(path, OFlags::PATH)?;
        let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
        let was = fs::fstat(&fd)?;
        if expected.is_some_and(|ino| ino.0 != was.st_ino && !path.is_empty()) {
            return Err(io::Error::other("something else stands there now"));
        }
        let mut owned = (was.st_uid, was.st_gid) == (attr.uid, attr.gid);
        if !owned {
            owned = match fs::chownat(&fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH) {
                Ok(()) => true,
                Err(Errno::PERM) => false,
                Err(e) => return Err(e.into()),
            };
        }
        if let Some(list) = xattrs.filter(|_| attr.kind != Kind::Symlink) {
            for (name, _) in xattr::all(fd.as_fd())? {
                if !list.iter().any(|x| x.0 == name) {
                    xattr::remove(fd.as_fd(), &name)?;
                }
            }
            for (name, value) in list {
                xattr::set(fd.as_fd(), name, value)?;
            }
        }
        if attr.kind != Kind::Symlink {
            let mode = if owned { attr.mode } else { attr.mode & 0o1777 };
            fs::chmod(beneath::magic_path(fd.as_fd()), Mode::from_raw_mode(mode))?;
        }
        self.set_times(path, attr.atime, attr.mtime)?;
        Ok(owned)
    }

    /// Sets the times.
    pub fn set_times(&self, path: &[u8], atime: Stamp, mtime: Stamp) -> io::Result<()> {
        let times = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
        match path {
            b"" => Ok(fs::futimens(&self.root, &times)?),
            _ => {
                let (d, name) = beneath::parent(self.root.as_fd(), path)?;
                Ok(fs::utimensat(&d, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
            }
        }
    }

    /// Extended attributes; none where they cannot be read.
    pub fn xattrs(&self, path: &[u8]) -> Vec<(Name, Vec<u8>)> {
        let read = || xattr::all(self.fd(path, OFlags::PATH)?.as_fd());
        read().unwrap_or_default()
    }
}

impl Open {
    /// Fills `buf` from `offset`; behind the end it is zeros.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut have = 0;
        while have < buf.len() {
            match self.file.read_at(&mut buf[have..], offset + have as u64) {
                Ok(0) => {
                    buf[have..].fill(0);
                    break;
                }
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Start of the next data at or behind `offset`; `None`: only a hole is left.
    pub fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match fs::seek(&self.file, fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
            Err(e) => Err(e.into()),
        }
    }

    /// Writes all of `bytes`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Sets the size; what is added is zeros.
    pub fn set_len(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    /// Returns once all of it is on stable storage.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
