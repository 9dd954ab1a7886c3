//! A plain local or NFS directory as the backing: what is in it is plain files.
//!
//! Every path is opened beneath one root descriptor and no symlink is followed (`sys::beneath`);
//! changes then go through the object's own descriptor. New objects are made in `.forelog/tmp`, a
//! directory that only we can enter, and renamed into place.

mod access;
mod attrs;
mod change;
mod house;
mod lease;
mod limits;
mod read;
mod stage;
mod sync;
#[cfg(test)]
mod tests;

use crate::backing::fence::{CHANGE, Fence, Times, haste};
use crate::backing::lease::Taking;
use crate::backing::{
    AttrChange, Backing, BackingEntry, BackingFile, BackingPath, BackingSpace, BackingStat, Content,
    HeldLease, Limits, NewObject, Note, Update, Xattr,
};
use crate::sys::beneath;
use crate::types::Kind;
use access::Last;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// The directory of ours at the backing's root; the lease lies in it.
pub(crate) const OURS: &str = ".forelog";

/// A directory as a backing.
pub struct DirectoryBacking {
    root: OwnedFd,
    /// Device of the root: only there are inode numbers ids.
    dev: u64,
    shown: String,
    path: PathBuf,
    /// It is reached over a network, so any call may take long.
    remote: bool,
    /// What the filesystem takes; measured once, at the first `prepare`.
    limits: OnceLock<Limits>,
    /// Who we are to the store: the owner of what we make (not always our uid, see NFS root squash).
    us: OnceLock<u32>,
    /// Written while a mode is widened for a moment (`access`), read while modes are looked at.
    modes: RwLock<()>,
    /// What was written and not yet synced.
    unsynced: Mutex<sync::Unsynced>,
    /// One sync of the whole store at a time: the kernel tells its failure only once.
    whole_sync: Mutex<()>,
    tmp: Mutex<Option<Arc<OwnedFd>>>,
    warned_xattr: AtomicBool,
    warned_owner: AtomicBool,
    fence: Arc<Fence>,
    /// What keeps the lease, once it is taken.
    kept: OnceLock<Arc<lease::Kept>>,
}

impl DirectoryBacking {
    /// Opens the directory at `root`. Refuses what is no directory and a kernel without `openat2`
    /// (before 5.6); makes nothing there.
    pub fn open(root: &Path) -> io::Result<DirectoryBacking> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty())?;
        let st = rustix::fs::fstat(&fd)?;
        if let Err(e) = beneath::open(fd.as_fd(), b"", OFlags::PATH) {
            let text = format!("openat2 does not work here ({e}): a Linux 5.6 or newer is needed");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        if rustix::fs::stat(beneath::magic_path(fd.as_fd())).map(|s| s.st_ino) != Ok(st.st_ino) {
            let text = "/proc/self/fd cannot be used: mount /proc";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        if st.st_mode & 0o1002 == 0o002 {
            log::warn!("{}: any user can rename what is in this backing", root.display());
        }
        Ok(DirectoryBacking {
            remote: limits::remote(&fd)?,
            limits: OnceLock::new(),
            root: fd,
            dev: st.st_dev,
            shown: root.display().to_string(),
            path: root.to_path_buf(),
            us: OnceLock::new(),
            modes: RwLock::new(()),
            unsynced: Mutex::default(),
            whole_sync: Mutex::new(()),
            tmp: Mutex::new(None),
            warned_xattr: AtomicBool::new(false),
            warned_owner: AtomicBool::new(false),
            fence: Arc::new(Fence::new(Times::new(CHANGE / haste()))),
            kept: OnceLock::new(),
        })
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Backing for DirectoryBacking {
    fn describe(&self) -> String {
        self.shown.clone()
    }

    fn remote(&self) -> bool {
        self.remote
    }
    fn limits(&self) -> Limits {
        self.limits.get().copied().unwrap_or(Limits::NONE)
    }

    fn stat(&self, path: &BackingPath) -> io::Result<BackingStat> {
        self.with_access(&[(&path.0, Last::Not)], || self.stat_now(&path.0))
    }
    fn list(&self, path: &BackingPath, each: &mut dyn FnMut(BackingEntry)) -> io::Result<()> {
        let found = self.with_access(&[(&path.0, Last::Any)], || self.list_now(&path.0))?;
        found.into_iter().for_each(each);
        Ok(())
    }
    fn open(&self, path: &BackingPath) -> io::Result<Arc<dyn BackingFile>> {
        let file = self.with_access(&[(&path.0, Last::Any)], || self.open_now(&path.0))?;
        Ok(Arc::new(file))
    }
    fn readlink(&self, path: &BackingPath) -> io::Result<Vec<u8>> {
        self.with_access(&[(&path.0, Last::Not)], || self.readlink_now(&path.0))
    }
    fn xattrs(&self, path: &BackingPath) -> io::Result<Vec<Xattr>> {
        self.with_access(&[(&path.0, Last::Any)], || self.xattrs_now(&path.0))
    }
    fn space(&self) -> io::Result<BackingSpace> {
        self.space_now()
    }

    fn stage(&self, name: &str, object: &NewObject, content: Content<'_>) -> io::Result<BackingStat> {
        self.fence.check()?;
        self.stage_now(name, object, content)
    }
    fn stage_link(&self, name: &str, from: &BackingPath) -> io::Result<()> {
        self.fence.check()?;
        self.with_access(&[(&from.0, Last::Not)], || self.stage_link_now(name, &from.0))
    }
    fn install(&self, name: &str, to: &BackingPath) -> io::Result<()> {
        self.fence.check()?;
        let staged = crate::backing::staged_path(name);
        let walks = [(&staged.0[..], Last::Dir), (&to.0[..], Last::Not)];
        self.with_access(&walks, || self.install_now(name, &to.0))
    }

    fn update(&self, path: &BackingPath, update: Update<'_>) -> io::Result<()> {
        self.fence.check()?;
        self.update_now(path, update)
    }
    fn set_attr(&self, path: &BackingPath, kind: Kind, change: &AttrChange) -> io::Result<()> {
        self.fence.check()?;
        self.with_access(&[(&path.0, Last::Not)], || self.set_attr_now(&path.0, kind, change))
    }
    fn rename(&self, from: &BackingPath, to: &BackingPath) -> io::Result<()> {
        self.fence.check()?;
        let walks = [(&from.0[..], Last::Dir), (&to.0[..], Last::Not)];
        self.with_access(&walks, || self.rename_now(&from.0, &to.0))
    }
    fn park(&self, from: &BackingPath, name: &str) -> io::Result<()> {
        self.fence.check()?;
        self.with_access(&[(&from.0, Last::Dir)], || self.park_now(&from.0, name))
    }
    fn unlink(&self, path: &BackingPath) -> io::Result<()> {
        self.fence.check()?;
        self.with_access(&[(&path.0, Last::Not)], || self.unlink_now(&path.0))
    }
    fn rmdir(&self, path: &BackingPath) -> io::Result<()> {
        self.fence.check()?;
        self.with_access(&[(&path.0, Last::Not)], || self.rmdir_now(&path.0))
    }

    fn sync(&self, files: &[BackingPath], dirs: &[BackingPath]) -> io::Result<()> {
        self.sync_now(files, dirs)
    }

    fn make_house(&self) -> io::Result<()> {
        self.with_access(&[], || self.make_ours().map(drop))
    }
    fn has_house(&self) -> io::Result<bool> {
        Ok(self.has_house_now())
    }
    fn lease(&self, how: Taking) -> Result<Box<dyn HeldLease>, String> {
        self.lease_now(how)
    }
    fn fence(&self) -> Option<&Fence> {
        Some(&self.fence)
    }
    fn begin(&self) -> io::Result<()> {
        self.kept.get().map_or(Ok(()), |k| k.begin())
    }
    fn notes(&self) -> io::Result<Vec<Note>> {
        self.notes_now()
    }
    fn put_note(&self, name: &str, text: &str) -> io::Result<()> {
        self.fence.check()?;
        self.put_note_now(name, text)
    }
    fn drop_note(&self, name: &str) -> io::Result<()> {
        self.fence.check()?;
        self.drop_note_now(name)
    }
    fn prepare(&self) -> io::Result<()> {
        self.fence.check()?;
        self.with_access(&[], || self.prepare_now())
    }
    fn parked(&self) -> io::Result<Vec<String>> {
        self.parked_now()
    }
    fn clean(&self) -> io::Result<()> {
        self.fence.check()?;
        self.with_access(&[], || self.clean_now())
    }
}
