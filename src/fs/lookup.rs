//! lookup, getattr, readlink.

use super::{Fs, Located};
use crate::types::{InodeId, Name};
use crate::volume::{Error, Result, valid_name};

impl Fs {
    /// What a name leads to; the kernel holds a reference afterwards. `None`: nothing.
    pub fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Option<Located>> {
        match valid_name(parent, name) {
            Ok(()) => {}
            Err(Error::NotPermitted) => return Ok(None),
            Err(e) => return Err(e),
        }
        let dir = self.cell(parent)?;
        let name: Name = name.into();
        loop {
            let Some(cell) = self.volume.resolve(&dir, &name)? else { return Ok(None) };
            if self.volume.hold(&cell) {
                return Ok(Some(self.located(&cell)));
            }
        }
    }

    /// Attributes of an inode.
    pub fn getattr(&self, ino: InodeId) -> Result<Located> {
        Ok(self.located(&self.cell(ino)?))
    }

    /// Target of a symlink.
    pub fn readlink(&self, ino: InodeId) -> Result<Vec<u8>> {
        self.volume.readlink(&self.cell(ino)?)
    }
}
