//! The disk under the log: a flat directory of segment files. A trait, so that tests can put a
//! disk in its place that tears writes and loses what was not synced.

use crate::sys::beneath::check_name;
use crate::types::Lsn;
use rustix::fs::{AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use smallvec::SmallVec;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Slices in one vectored write (the kernel's `IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// What zero fill writes at once.
const ZERO_PIECE_BYTES: usize = 128 << 10;

static ZEROS: [u8; ZERO_PIECE_BYTES] = [0; ZERO_PIECE_BYTES];

/// An open segment file.
#[allow(clippy::len_without_is_empty)]
pub trait DiskFile: Send + Sync {
    /// Writes all of `bufs`, one after the other, at `offset`: one `pwritev`, continued when short.
    fn write_all_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Fills `buf` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Reads what there is at `offset`; short only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Returns once all written data are on stable storage. Never call it again to turn a failure
    /// into a success: the kernel may have dropped the pages.
    fn sync_data(&self) -> io::Result<()>;
    /// Forgets what is cached of the file and is not dirty, so that the next read asks the device.
    fn drop_cache(&self) -> io::Result<()>;
    /// Size in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Writes zeros over the first `len` bytes, so that blocks are allocated and written and the
    /// pages are warm. Not durable until `sync_data`.
    fn fill_zero(&self, len: u64) -> io::Result<()>;
}

/// A flat directory of files, by name.
pub trait Disk: Send + Sync {
    /// Makes a file of `size` bytes with its space allocated. `AlreadyExists` if the name is taken.
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reads and writes.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, replacing `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Names and sizes of all regular files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Makes creations, removals and renames durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes free to us on the device.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Takes a retired segment's file out of the log, for undo: its first `end` bytes, the last record there. False: it
    /// is not wanted, or could not be, and stays where it is.
    fn keep(&self, _name: &str, _generation: u32, _end: u32, _last: Lsn) -> bool {
        false
    }
    /// Bytes of what was kept: they are on the same device, and count with the log's.
    fn kept_bytes(&self) -> u64 {
        0
    }
    /// Gives up at least so many bytes of what was kept, the oldest first. Returns how many it were.
    fn give_up(&self, _bytes: u64) -> u64 {
        0
    }
}

/// A directory of this machine.
pub struct RealDisk {
    dir: OwnedFd,
}

impl RealDisk {
    /// The directory at `path`, which must exist (see `files::create_dir_private`).
    pub fn open(path: &Path) -> io::Result<RealDisk> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(RealDisk { dir: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Moves a file to another directory of the same filesystem.
    pub fn move_to(&self, name: &str, to: &RealDisk, new_name: &str) -> io::Result<()> {
        check_name(name.as_bytes())?;
        check_name(new_name.as_bytes())?;
        Ok(rustix::fs::renameat(&self.dir, name, &to.dir, new_name)?)
    }

    /// Cuts a file to `len` bytes and gives the rest of its space back.
    pub fn cut(&self, name: &str, len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.open_file(name, OFlags::empty())?, len)?)
    }

    /// Names, sizes and modification times (nanoseconds since 1970) of all regular files.
    pub fn list_dated(&self) -> io::Result<Vec<(String, u64, i64)>> {
        let mut found = Vec::new();
        for (name, size) in self.list()? {
            match rustix::fs::statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(st) => found.push((name, size, st.st_mtime * 1_000_000_000 + st.st_mtime_nsec as i64)),
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(found)
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        check_name(name.as_bytes())?;
        let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o600))?.into())
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        // Asked first: some filesystems fill up to the last block before they say no.
        if size > self.free_bytes()? {
            return Err(Errno::NOSPC.into());
        }
        let file = self.open_file(name, OFlags::CREATE | OFlags::EXCL)?;
        if let Err(e) = allocate(&file, size) {
            let _ = self.remove(name);
            return Err(e);
        }
        Ok(Arc::new(RealFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile { file: self.open_file(name, OFlags::empty())? }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name.as_bytes())?;
        Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from.as_bytes())?;
        check_name(to.as_bytes())?;
        Ok(rustix::fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(st) if FileType::from_raw_mode(st.st_mode) == FileType::RegularFile => {
                    found.push((name.to_string(), st.st_size as u64));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        found.sort();
        Ok(found)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fsync(&self.dir))?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let v = rustix::fs::fstatvfs(&self.dir)?;
        Ok(v.f_bavail.saturating_mul(v.f_frsize))
    }
}

/// Sets the size, with the space reserved where the filesystem can, so that ENOSPC comes here.
fn allocate(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    let got = rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size));
    match got {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(size),
        other => Ok(other?),
    }
}

struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn write_all_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut slices: SmallVec<[IoSlice<'_>; 8]> =
            bufs.iter().filter(|b| !b.is_empty()).map(|b| IoSlice::new(b)).collect();
        let mut rest = &mut slices[..];
        let mut at = offset;
        while !rest.is_empty() {
            let now = &rest[..rest.len().min(SLICES_MAX)];
            match rustix::io::pwritev(self.file.as_fd(), now, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&self.file))?)
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn fill_zero(&self, len: u64) -> io::Result<()> {
        let mut at = 0;
        while at < len {
            let n = (len - at).min(ZERO_PIECE_BYTES as u64) as usize;
            self.file.write_all_at(&ZEROS[..n], at)?;
            at += n as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_segment_file_lives_and_dies() {
        let t = tempfile::tempdir().unwrap();
        let d = RealDisk::open(t.path()).unwrap();
        let f = d.create("a", 3 << 20).unwrap();
        assert_eq!(f.len().unwrap(), 3 << 20);
        let e = d.create("a", 1).err().unwrap();
        assert_eq!(e.kind(), io::ErrorKind::AlreadyExists);
        f.fill_zero((3 << 20) - 5).unwrap();
        f.write_all_at(&[b"one", b"", b"two"], 10).unwrap();
        let many: Vec<[u8; 1]> = (0..3000u32).map(|i| [i as u8]).collect();
        let refs: Vec<&[u8]> = many.iter().map(|b| &b[..]).collect();
        f.write_all_at(&refs, 1000).unwrap();
        f.sync_data().unwrap();
        d.sync_dir().unwrap();
        d.rename("a", "b").unwrap();
        let f = d.open("b").unwrap();
        let mut b = [0u8; 8];
        f.read_exact_at(&mut b, 9).unwrap();
        assert_eq!(&b, b"\0onetwo\0");
        let mut big = vec![0u8; 3000];
        f.read_exact_at(&mut big, 1000).unwrap();
        assert!(big.iter().enumerate().all(|(i, b)| *b == i as u8));
        assert_eq!(f.read_at(&mut b, (3 << 20) - 2).unwrap(), 2);
        let e = f.read_exact_at(&mut b, (3 << 20) - 2).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
        std::fs::create_dir(t.path().join("sub")).unwrap();
        assert_eq!(d.list().unwrap(), [("b".to_string(), 3 << 20)]);
        assert_eq!(std::fs::metadata(t.path().join("b")).unwrap().mode() & 0o777, 0o600);
        assert!(d.free_bytes().unwrap() > 0);
        d.remove("b").unwrap();
        assert!(d.open("b").is_err());
        assert!(d.open("../x").is_err());
    }

    #[test]
    fn a_file_that_does_not_fit_is_not_left_behind() {
        let t = tempfile::tempdir().unwrap();
        let d = RealDisk::open(t.path()).unwrap();
        // More than any device has, so that nothing is allocated for this test.
        let e = d.create("x", i64::MAX as u64).err().unwrap();
        assert_eq!(e.raw_os_error(), Some(libc::ENOSPC));
        let failed = allocate(&d.open_file("y", OFlags::CREATE).unwrap(), u64::MAX);
        assert!(failed.is_err());
        d.remove("y").unwrap();
        assert!(d.list().unwrap().is_empty());
    }
}
