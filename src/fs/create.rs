//! create, mknod, mkdir, symlink.

use super::{Fs, Located, Who};
use crate::format::mutation::{Mutation, encode_xattrs};
use crate::sys::limits;
use crate::types::{Attr, How, InodeId, Kind, Stamp};
use crate::volume::{Data, Error, Locked, Result};
use crate::wal::Class;
use std::sync::LazyLock;

/// A symlink's target is at most this long.
const TARGET_BYTES_MAX: usize = 4095;

/// What to make.
pub struct New<'a> {
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Taken from them where the directory has no default access list.
    pub umask: u32,
    pub rdev: u32,
    /// Target of a symlink.
    pub target: &'a [u8],
}

impl Fs {
    /// Makes an object at a free name; the kernel holds a reference afterwards.
    pub fn make(&self, who: &Who, parent: InodeId, name: &[u8], new: &New<'_>) -> Result<Located> {
        self.writable()?;
        let at = self.key(parent, name)?;
        if new.target.len() > TARGET_BYTES_MAX {
            return Err(Error::NameTooLong);
        }
        if new.kind == Kind::Symlink && new.target.is_empty() {
            return Err(Error::NotFound);
        }
        let takes = match new.kind {
            Kind::Symlink => self.limits.symlinks,
            Kind::File | Kind::Dir => true,
            _ => self.limits.special,
        };
        if !takes {
            return Err(Error::NotPermitted);
        }
        self.throttle_files(who)?;
        let dir = self.cell(parent)?;
        if self.volume.resolve(&dir, &at.name)?.is_some() {
            return Err(Error::Exists);
        }
        self.know_acl(&dir)?;
        let change = self.volume.change(&who.client.slot);
        change.track(&dir)?;
        let mut locked = Locked::new(&[&dir]);
        let now = Stamp::from_ns(self.volume.clock.wall_ns());
        let (attr, xattrs) = {
            let p = locked.get(parent).ok_or(Error::Stale)?;
            let d = p.node.dir.as_ref().ok_or(Error::NotDirectory)?;
            if p.node.is_dead() {
                return Err(Error::NotFound);
            }
            if d.entries.get(&at.name).is_some_and(|e| e.target.is_some()) {
                return Err(Error::Exists);
            }
            let mut attr = new_attr(who, &p.node.attr, new, now);
            let xattrs = self.inherit(&locked, parent, new.umask, &mut attr);
            (attr, xattrs)
        };
        let ino = self.volume.new_ino();
        let xattrs = encode_xattrs(&xattrs);
        let bytes = if new.kind == Kind::Symlink { new.target } else { &xattrs };
        let data = Data { bytes, may_split: false };
        change.commit(&mut locked, &Mutation::Create { at, ino, attr }, data, Class::Data)?;
        let cell = self.volume.cell(ino).ok_or(Error::Stale)?;
        // Nobody else can reach it before the directory is unlocked.
        self.volume.hold(&cell);
        drop(locked);
        drop(change);
        self.volume.learn_names(&dir);
        if new.kind == Kind::File {
            self.sample(who, ino, How::Create, 0);
        }
        Ok(Located { ino, attr })
    }
}

/// Since Linux 6.1 the kernel takes the set-group-id bit from a file whose maker is not of the group.
fn kernel_decides() -> bool {
    static DECIDES: LazyLock<bool> = LazyLock::new(|| limits::kernel() >= (6, 1));
    *DECIDES
}

/// Owner and group as `inode_init_owner`: a setgid directory hands its group down, and to
/// directories its bit as well. An older kernel tells us one of the
/// groups of the process alone: there the bit goes where it might have stayed.
pub(super) fn new_attr(who: &Who, parent: &Attr, new: &New<'_>, now: Stamp) -> Attr {
    let inherits = parent.mode & 0o2000 != 0;
    let gid = if inherits { parent.gid } else { who.gid };
    let mut mode = new.mode & 0o7777;
    if inherits && new.kind == Kind::Dir {
        mode |= 0o2000;
    } else if inherits && mode & 0o2010 == 0o2010 && who.gid != gid && who.uid != 0 && !kernel_decides() {
        mode &= !0o2000;
    }
    Attr {
        kind: new.kind,
        mode: if new.kind == Kind::Symlink { 0o777 } else { mode },
        uid: who.uid,
        gid,
        rdev: new.rdev,
        nlink: if new.kind == Kind::Dir { 2 } else { 1 },
        size: new.target.len() as u64,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
    }
}
