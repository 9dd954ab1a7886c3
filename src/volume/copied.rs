//! A backing that was copied to another disk, or restored: the same tree under other object numbers.

use super::Volume;
use crate::backing::{BackingPath, BackingStat};
use crate::types::{BackingId, InodeId, Kind, Stamp};
use std::io;

/// Objects that are looked at for whether the backing is the one it was.
const LOOKED_AT: usize = 16;

/// What stands where an object was.
enum Found {
    Itself,
    /// What passes for a copy of it.
    Copy(BackingId),
    Else,
}

impl Volume {
    /// Objects of a backing are known by their numbers, which a copy of it does not keep: every file with changes
    /// would count as replaced by something else. So if none that is looked at is where it was, but something like
    /// it is (of the same kind; a file with the size and time that were seen last), all go by their names once. Before
    /// anything else relies on the numbers. Errors: the backing could not be asked.
    pub(super) fn recognize_copy(&self) -> io::Result<()> {
        let known: Vec<(InodeId, BackingId)> = {
            let places = self.places.read();
            places.objects().filter_map(|(ino, _)| Some((ino, places.id(ino)?))).collect()
        };
        let mut copies = 0;
        for (ino, id) in known.iter().take(LOOKED_AT) {
            match self.found(*ino, *id)? {
                Found::Itself => return Ok(()),
                Found::Copy(_) => copies += 1,
                Found::Else => {}
            }
        }
        if copies == 0 {
            return Ok(());
        }
        let mut now = Vec::new();
        for (ino, id) in known {
            now.push(match self.found(ino, id)? {
                Found::Copy(copy) => (ino, copy),
                Found::Itself | Found::Else => (ino, id),
            });
        }
        log::warn!(
            "the backing {} is a copy of the one that was mounted last, by the numbers of {} of its files: they go by \
             their names",
            self.backing.describe(),
            now.len()
        );
        self.places.write().renumber(&now);
        Ok(())
    }

    fn found(&self, ino: InodeId, id: BackingId) -> io::Result<Found> {
        let Some(path) = self.places.read().path(ino).map(BackingPath) else { return Ok(Found::Else) };
        match self.backing.stat(&path) {
            Ok(s) if s.id == id => Ok(Found::Itself),
            Ok(s) if self.passes_for(ino, &s) => Ok(Found::Copy(s.id)),
            Ok(_) => Ok(Found::Else),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Found::Else)
            }
            Err(e) => Err(e),
        }
    }

    fn passes_for(&self, ino: InodeId, there: &BackingStat) -> bool {
        let Some(cell) = self.table.get(ino) else { return false };
        let i = cell.read();
        let n = &i.node;
        let same =
            |(mtime, size): (Stamp, u64)| size == there.attr.size && mtime.is_kept_as(there.attr.mtime);
        n.attr.kind == there.attr.kind && (n.attr.kind != Kind::File || n.seen.is_some_and(same))
    }
}
