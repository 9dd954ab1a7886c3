//! setattr: chmod, chown, truncate, utimes.

use super::{Fs, Located, Who};
use crate::format::mutation::{AttrSet, Mutation};
use crate::types::{How, InodeId, Kind, Stamp};
use crate::volume::{Data, Error, Locked, Result, without_suid};
use crate::wal::Class;

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum When {
    Now,
    At(Stamp),
}

/// What to set; `None` leaves it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttrRequest {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<When>,
    pub mtime: Option<When>,
    pub ctime: Option<Stamp>,
}

impl Fs {
    /// Sets attributes. Permissions were checked by the kernel.
    pub fn setattr(&self, who: &Who, ino: InodeId, req: &SetAttrRequest) -> Result<Located> {
        self.writable()?;
        let cell = self.cell(ino)?;
        if req.size.is_some_and(|s| s > self.limits.file_bytes_max) {
            return Err(Error::FileTooLarge);
        }
        self.throttle_files(who)?;
        if req.mode.is_some() {
            self.know_acl(&cell)?;
        }
        let change = self.volume.change(&who.client.slot);
        change.track(&cell)?;
        let mut locked = Locked::new(&[&cell]);
        let now = Stamp::from_ns(self.volume.clock.wall_ns());
        let (set, grows) = {
            let i = locked.get(ino).ok_or(Error::Stale)?;
            let a = &i.node.attr;
            if req.size.is_some() && a.kind != Kind::File {
                return Err(if a.kind == Kind::Dir { Error::IsDirectory } else { Error::Invalid });
            }
            let stamp = |w: When| match w {
                When::Now => now,
                When::At(s) => s,
            };
            let mut set = AttrSet {
                mode: req.mode.map(|m| m & 0o7777),
                uid: req.uid,
                gid: req.gid,
                size: req.size,
                atime: req.atime.map(stamp),
                mtime: req.mtime.map(stamp),
                ctime: Some(now),
            };
            let chown = req.uid.is_some() || req.gid.is_some();
            // The kernel leaves this to us with HANDLE_KILLPRIV_V2.
            if a.kind == Kind::File && (chown || req.size.is_some() && who.uid != 0) {
                let mode = set.mode.unwrap_or(a.mode);
                if req.mode.is_none() && without_suid(mode) != mode {
                    set.mode = Some(without_suid(mode));
                }
            }
            if req.size.is_some() && req.mtime.is_none() {
                set.mtime = Some(now);
            }
            (set, req.size.is_some_and(|s| s > a.size))
        };
        let class = if grows { Class::Data } else { Class::Meta };
        change.commit(&mut locked, &Mutation::SetAttr { ino, set }, Data::NONE, class)?;
        drop(locked);
        if req.size.is_some() {
            self.sample(who, ino, How::Truncate, 0);
        }
        Ok(self.located(&cell))
    }
}
