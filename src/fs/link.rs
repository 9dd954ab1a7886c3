//! link.

use super::{Fs, Located, Who};
use crate::format::mutation::Mutation;
use crate::types::{InodeId, Kind};
use crate::volume::{Data, Error, Locked, Result};
use crate::wal::Class;

impl Fs {
    /// Gives an inode a further name; the kernel holds a reference afterwards.
    pub fn link(&self, who: &Who, ino: InodeId, parent: InodeId, name: &[u8]) -> Result<Located> {
        self.writable()?;
        let at = self.key(parent, name)?;
        let (dir, cell) = (self.cell(parent)?, self.cell(ino)?);
        if self.volume.resolve(&dir, &at.name)?.is_some() {
            return Err(Error::Exists);
        }
        let change = self.volume.change(&who.client.slot);
        change.track(&dir)?;
        change.track(&cell)?;
        let mut locked = Locked::new(&[&dir, &cell]);
        {
            let i = locked.get(ino).ok_or(Error::Stale)?;
            if i.node.attr.kind == Kind::Dir {
                return Err(Error::NotPermitted);
            }
            if i.node.is_dead() {
                return Err(Error::NotFound);
            }
            if i.node.attr.nlink >= self.limits.links_max {
                let none = self.limits.links_max == 1;
                return Err(if none { Error::NotPermitted } else { Error::TooManyLinks });
            }
            let p = locked.get(parent).ok_or(Error::Stale)?;
            if p.node.is_dead() {
                return Err(Error::NotFound);
            }
            let d = p.node.dir.as_ref().ok_or(Error::NotDirectory)?;
            if d.entries.get(&at.name).is_some_and(|e| e.target.is_some()) {
                return Err(Error::Exists);
            }
        }
        change.commit(&mut locked, &Mutation::Link { at, ino }, Data::NONE, Class::Data)?;
        self.volume.hold(&cell);
        drop(locked);
        Ok(self.located(&cell))
    }
}
