//! Extended attributes. The set of an inode is logged whole.

use super::{Fs, Who};
use crate::format::mutation::{Mutation, encode_xattrs};
use crate::types::{InodeId, Name};
use crate::volume::{Data, Error, Locked, Result};
use crate::wal::Class;

/// Where a file is on its way to the backing, as text: made when it is asked for, kept nowhere, and not among the names, so
/// that copies do not take it along. An attribute of this name that the backing has stays there unseen.
pub const STATE: &[u8] = b"user.forelog.state";
/// No such text is longer.
pub const STATE_BYTES_MAX: u32 = 512;

const NAME_MAX: usize = 255;
/// Flags of setxattr(2).
const CREATE: i32 = 1;
const REPLACE: i32 = 2;

fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

impl Fs {
    /// Namespaces that mean something to the kernel which it would not enforce here are left out.
    fn supported(&self, name: &[u8]) -> bool {
        name != b"security.capability" && (self.limits.access_lists || !is_acl(name))
    }

    /// Value of an attribute.
    pub fn getxattr(&self, ino: InodeId, name: &[u8]) -> Result<Vec<u8>> {
        let cell = self.cell(ino)?;
        if name == STATE
            && let Some(state) = self.state.get()
        {
            let mut text = state(ino).into_bytes();
            text.truncate(STATE_BYTES_MAX as usize);
            return Ok(text);
        }
        if !self.supported(name) {
            return Err(if is_acl(name) { Error::NotSupported } else { Error::NoAttribute });
        }
        let all = self.volume.xattrs(&cell)?;
        all.into_iter().find(|(n, _)| &**n == name).map(|x| x.1).ok_or(Error::NoAttribute)
    }

    /// Names of all attributes, each ended by NUL.
    pub fn listxattr(&self, ino: InodeId) -> Result<Vec<u8>> {
        let all = self.volume.xattrs(&self.cell(ino)?)?;
        let mut out = Vec::new();
        for (n, _) in all.iter().filter(|x| &*x.0 != STATE && self.supported(&x.0)) {
            out.extend_from_slice(n);
            out.push(0);
        }
        Ok(out)
    }

    /// Sets an attribute; `flags` as setxattr(2).
    pub fn setxattr(&self, who: &Who, ino: InodeId, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        if name == STATE {
            return Err(Error::NotPermitted);
        }
        if !self.supported(name) {
            return Err(Error::NotSupported);
        }
        if is_acl(name) {
            return self.set_acl(who, ino, name, value);
        }
        if name.len() > NAME_MAX {
            return Err(Error::RangeTooSmall);
        }
        let room = self.limits.xattr_bytes_max;
        if room == 0 {
            return Err(Error::NotSupported);
        }
        self.change_xattrs(who, ino, |set| {
            let at = set.iter().position(|(n, _)| &**n == name);
            match (flags, at) {
                (CREATE, Some(_)) => return Err(Error::Exists),
                (REPLACE, None) => return Err(Error::NoAttribute),
                _ => {}
            }
            match at {
                Some(i) => set[i].1 = value.to_vec(),
                None => set.push((name.into(), value.to_vec())),
            }
            fits(set, room)
        })
    }

    /// Removes an attribute.
    pub fn removexattr(&self, who: &Who, ino: InodeId, name: &[u8]) -> Result<()> {
        if name == STATE {
            return Err(Error::NotPermitted);
        }
        if is_acl(name) {
            return self.drop_acl(who, ino, name);
        }
        self.change_xattrs(who, ino, |set| {
            let i = set.iter().position(|(n, _)| &**n == name).ok_or(Error::NoAttribute)?;
            set.remove(i);
            Ok(())
        })
    }

    pub(super) fn change_xattrs(
        &self,
        who: &Who,
        ino: InodeId,
        f: impl Fn(&mut Vec<(Name, Vec<u8>)>) -> Result<()>,
    ) -> Result<()> {
        self.writable()?;
        let cell = self.cell(ino)?;
        self.volume.xattrs(&cell)?;
        let change = self.volume.change(&who.client.slot);
        change.track(&cell)?;
        let mut locked = Locked::new(&[&cell]);
        let mut set = locked.get(ino).and_then(|i| i.node.xattrs.clone()).ok_or(Error::Stale)?;
        f(&mut set)?;
        let bytes = encode_xattrs(&set);
        let data = Data { bytes: &bytes, may_split: false };
        change.commit(&mut locked, &Mutation::SetXattrs { ino }, data, Class::Data).map(drop)
    }
}

/// Whether a set has room in one object of the backing.
pub(super) fn fits(set: &[(Name, Vec<u8>)], room: usize) -> Result<()> {
    let total: usize = set.iter().map(|(n, v)| n.len() + v.len() + 16).sum();
    if total > room { Err(Error::NoRoom) } else { Ok(()) }
}
