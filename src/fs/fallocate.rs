//! fallocate: allocate, keep size, punch, zero.

use super::{Fs, Who, has_set_id, is_file};
use crate::format::mutation::{AttrSet, Mutation};
use crate::types::{How, InodeId};
use crate::volume::{Data, Error, Locked, Result, without_suid};
use crate::wal::Class;

const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

impl Fs {
    /// Reserves or zeroes a range; `mode` as fallocate(2).
    pub fn fallocate(&self, who: &Who, ino: InodeId, offset: u64, len: u64, mode: i32) -> Result<()> {
        self.writable()?;
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0
            || mode & PUNCH_HOLE != 0 && mode & (KEEP_SIZE | ZERO_RANGE) != KEEP_SIZE
        {
            return Err(Error::NotSupported);
        }
        let end = offset.checked_add(len).filter(|&e| e <= self.limits.file_bytes_max);
        let end = end.ok_or(Error::FileTooLarge)?;
        if len == 0 {
            return Err(Error::Invalid);
        }
        let cell = self.cell(ino)?;
        is_file(&cell)?;
        let change = self.volume.change(&who.client.slot);
        change.track(&cell)?;
        let mut locked = Locked::new(&[&cell]);
        let size = locked.get(ino).ok_or(Error::Stale)?.node.attr.size;
        let new_size = if mode & KEEP_SIZE != 0 { size } else { size.max(end) };
        let zeroes = mode & (PUNCH_HOLE | ZERO_RANGE) != 0;
        let zero_len = if zeroes { end.min(new_size).saturating_sub(offset) } else { 0 };
        if zero_len == 0 && new_size == size {
            return Ok(());
        }
        let attr = locked.get(ino).map(|i| i.node.attr);
        let cleared = attr.filter(|a| who.uid != 0 && has_set_id(a)).map(|a| without_suid(a.mode));
        if let Some(mode) = cleared {
            let set = AttrSet { mode: Some(mode), ..AttrSet::default() };
            change.commit(&mut locked, &Mutation::SetAttr { ino, set }, Data::NONE, Class::Meta)?;
        }
        let m = Mutation::Zero { ino, offset, len: zero_len, size: new_size };
        change.commit(&mut locked, &m, Data::NONE, Class::Data)?;
        drop(locked);
        if cleared.is_some() {
            self.set_id_gone(ino);
        }
        self.sample(who, ino, How::Punch, 0);
        Ok(())
    }
}
