//! A backing that was copied to another disk, or restored: the same tree under other object numbers.

use super::Volume;
use crate::backing::{BackingPath, BackingStat};
use crate::types::{BackingId, InodeId, Kind};
use std::collections::HashSet;
use std::io;

/// Objects that are looked at first, for whether the backing is the one it was.
const LOOKED_AT: usize = 16;

/// What stands where an object was.
#[derive(Clone, Copy)]
enum Found {
    /// An object that is known: the backing is the one it was, whatever the writeback had moved when it died.
    Known,
    /// What passes for a copy of it: of the same kind, and a file with the size and the time that were seen last.
    Copy(BackingId, Kind),
    Else,
}

impl Volume {
    /// Objects of a backing are known by their numbers, which a copy of it does not keep: every file with changes
    /// would count as replaced by something else. So if no known object is anywhere where one was, but files that pass for
    /// copies are, all go by their names once. Before anything else relies on the numbers. In doubt they do not: then what
    /// stands there is kept beside ours. Errors: the backing could not be asked.
    pub(super) fn recognize_copy(&self) -> io::Result<()> {
        let known: Vec<(InodeId, BackingId)> = {
            let places = self.places.read();
            places.objects().filter_map(|(ino, _)| Some((ino, places.id(ino)?))).collect()
        };
        // What was staged may stand in the place of what it replaces.
        let staged: Vec<BackingId> = self.intents.lock().iter().map(|i| i.1.id).collect();
        let ours: HashSet<BackingId> = known.iter().map(|k| k.1).chain(staged).collect();
        let (mut now, mut files) = (Vec::new(), 0);
        for (looked_at, (ino, id)) in known.into_iter().enumerate() {
            if looked_at == LOOKED_AT && files == 0 {
                return Ok(());
            }
            now.push(match self.found(ino, &ours)? {
                Found::Known => return Ok(()),
                Found::Copy(copy, kind) => {
                    files += (kind == Kind::File) as usize;
                    (ino, copy)
                }
                Found::Else => (ino, id),
            });
        }
        if files == 0 {
            return Ok(());
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

    fn found(&self, ino: InodeId, ours: &HashSet<BackingId>) -> io::Result<Found> {
        let Some(path) = self.places.read().path(ino).map(BackingPath) else { return Ok(Found::Else) };
        match self.backing.stat(&path) {
            Ok(s) if ours.contains(&s.id) => Ok(Found::Known),
            Ok(s) if self.passes_for(ino, &s) => Ok(Found::Copy(s.id, s.attr.kind)),
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
        n.attr.kind == there.attr.kind
            && (n.attr.kind != Kind::File || n.seen.is_some_and(|s| there.is_as_seen(s)))
    }
}
