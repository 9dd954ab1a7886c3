//! unlink, rmdir.

use super::{Fs, Who};
use crate::format::mutation::Mutation;
use crate::types::{InodeId, Kind};
use crate::volume::{Data, Error, Locked, Result};
use crate::wal::Class;

impl Fs {
    /// Removes a name of a non-directory (or, with `dir`, an empty directory).
    pub fn remove(&self, who: &Who, parent: InodeId, name: &[u8], dir: bool) -> Result<()> {
        self.writable()?;
        let at = self.key(parent, name)?;
        let p = self.cell(parent)?;
        loop {
            let cell = self.volume.resolve(&p, &at.name)?.ok_or(Error::NotFound)?;
            let kind = cell.read().node.attr.kind;
            match (kind == Kind::Dir, dir) {
                (true, false) => return Err(Error::IsDirectory),
                (false, true) => return Err(Error::NotDirectory),
                _ => {}
            }
            if dir && !self.is_empty(&cell)? {
                return Err(Error::NotEmpty);
            }
            let change = self.volume.change(&who.client.slot);
            change.track(&cell)?;
            change.track(&p)?;
            let mut locked = Locked::new(&[&p, &cell]);
            let now = locked
                .get(parent)
                .and_then(|i| i.node.dir.as_ref())
                .and_then(|d| d.entries.get(&at.name))
                .and_then(|e| e.target);
            if now != Some(cell.id) || !self.volume.is_current(&cell) {
                continue;
            }
            let full = |d: &crate::namespace::Dir| d.entries.values().any(|e| e.target.is_some());
            if dir && locked.get(cell.id).and_then(|i| i.node.dir.as_ref()).is_some_and(|d| full(d)) {
                return Err(Error::NotEmpty);
            }
            let m = if dir {
                Mutation::Rmdir { at, ino: cell.id }
            } else {
                Mutation::Unlink { at, ino: cell.id }
            };
            return change.commit(&mut locked, &m, Data::NONE, Class::Meta).map(drop);
        }
    }
}
