//! A name that programs replace all the time: the backing follows from batch to batch, each time to what the name led to
//! when the batch began.

use super::Writeback;
use super::stage::{Staged, Work};
use crate::format::mutation::EntryKey;
use crate::types::Kind;
use std::io;

impl Writeback {
    /// For a name that has been replaced since the batch began: the file that it led to then, if that has no name left, so
    /// that one that is replaced all the time is not for ever younger than every batch. False: the name stays dirty.
    pub(super) fn agree_as_of_batch(&mut self, key: &EntryKey, w: &mut Work) -> io::Result<bool> {
        let Some(&(ino, lsn)) = w.was.get(key) else { return Ok(false) };
        let has_moved_on = self.volume.entry(key).is_some_and(|e| e.0.is_some_and(|now| now != ino));
        let waits = |s: &Staged| !s.installed && !s.dropped && s.snap.attr.kind == Kind::File;
        let is_staged = w.staged.get(&ino).is_some_and(waits);
        if self.log_failed || lsn > w.upto || !has_moved_on || !is_staged || self.volume.is_open_or_named(ino)
        {
            return Ok(false);
        }
        if !self.raise(key.parent, w)? {
            return Ok(false);
        }
        let Some(path) = self.path(key) else { return Ok(false) };
        let there = self.look(key, &path)?;
        if self.bring(key, &path, ino, there, w)? {
            w.agreed.insert(key.clone(), lsn);
            self.changed.insert(key.clone());
            w.dirs.insert(key.parent);
        }
        Ok(false)
    }
}
