//! Access lists. The mode follows an access list and the list follows the mode: both are in one record each, so
//! that a crash cannot part them (`volume/apply.rs`). Who may do what by them the kernel decides.

use super::xattr::fits;
use super::{Fs, SetAttrRequest, Who};
use crate::namespace::acl::{self, ACCESS, Acl, DEFAULT};
use crate::types::{Attr, InodeId, Kind, Name};
use crate::volume::{Cell, Error, Locked, Result};
use std::sync::Arc;

type Set = Vec<(Name, Vec<u8>)>;

fn without(set: &mut Set, name: &[u8]) -> bool {
    let before = set.len();
    set.retain(|(n, _)| &**n != name);
    set.len() != before
}

impl Fs {
    pub(super) fn set_acl(&self, who: &Who, ino: InodeId, name: &[u8], value: &[u8]) -> Result<()> {
        if name != ACCESS && name != DEFAULT {
            return Err(Error::NotSupported);
        }
        let attr = self.cell(ino)?.read().node.attr;
        match attr.kind {
            Kind::Symlink => return Err(Error::NotSupported),
            Kind::Dir => {}
            _ if name == DEFAULT => return Err(Error::AccessDenied),
            _ => {}
        }
        if value.is_empty() {
            return self.drop_acl(who, ino, name);
        }
        let list = Acl::parse(value).ok_or(Error::Invalid)?;
        let mut mode = attr.mode;
        if name == ACCESS {
            // As chmod: one who is not of the group does not hand its rights on.
            if who.uid != 0 && who.gid != attr.gid {
                mode &= !0o2000;
            }
            if list.is_minimal() {
                mode = list.mode(mode);
            }
        }
        if mode != attr.mode {
            self.setattr(who, ino, &SetAttrRequest { mode: Some(mode), ..Default::default() })?;
        }
        if name == ACCESS && list.is_minimal() {
            return self.drop_acl(who, ino, name);
        }
        let room = self.limits.xattr_bytes_max;
        self.change_xattrs(who, ino, |set| {
            without(set, name);
            set.push((name.into(), list.encode()));
            fits(set, room)
        })
    }

    /// Without a list the mode alone says who may what; fine if there was none.
    pub(super) fn drop_acl(&self, who: &Who, ino: InodeId, name: &[u8]) -> Result<()> {
        let there = self.volume.xattrs(&self.cell(ino)?)?.iter().any(|(n, _)| &**n == name);
        if !there {
            return Ok(());
        }
        self.change_xattrs(who, ino, |set| {
            without(set, name);
            Ok(())
        })
    }

    /// Makes the attributes of an inode known where an access list may be among them.
    pub(super) fn know_acl(&self, cell: &Arc<Cell>) -> Result<()> {
        if self.limits.access_lists {
            self.volume.xattrs(cell)?;
        }
        Ok(())
    }

    /// Gives a new object what its directory's default list says: returns its attributes, and sets its mode.
    /// Without such a list the umask takes its part of the mode.
    pub(super) fn inherit(&self, locked: &Locked<'_>, dir: InodeId, umask: u32, attr: &mut Attr) -> Set {
        let mut set = Set::new();
        if attr.kind == Kind::Symlink {
            return set;
        }
        let of_dir =
            locked.get(dir).and_then(|i| i.node.xattrs.as_ref()).filter(|_| self.limits.access_lists);
        let Some(list) = of_dir.and_then(|x| acl::find(x, DEFAULT)) else {
            attr.mode &= !(umask & 0o777);
            return set;
        };
        let (own, mode) = list.inherited(attr.mode);
        attr.mode = mode;
        if !own.is_minimal() {
            set.push((ACCESS.into(), own.encode()));
        }
        if attr.kind == Kind::Dir {
            set.push((DEFAULT.into(), list.encode()));
        }
        set
    }

    /// Whether the kernel is to ask for access lists.
    pub fn has_access_lists(&self) -> bool {
        self.limits.access_lists
    }
}
