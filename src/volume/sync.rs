//! What an fsync must make durable.

use super::Volume;
use super::table::Cell;
use crate::types::{InodeId, Pos};
use crate::wal::{ClientSlot, SyncFailed};
use std::sync::Arc;

impl Volume {
    /// Records that must be durable before an fsync of `cell` by `who` may return: the inode's, its
    /// names', those of the directories on the way to it, and the caller's own. What these depend on,
    /// the log adds.
    pub fn sync_needs(&self, cell: &Arc<Cell>, who: &ClientSlot) -> Vec<Pos> {
        let mut needs = vec![who.last()];
        let mut at: Option<InodeId> = {
            let i = cell.read();
            needs.extend([i.node.last, i.node.links]);
            if let Some(d) = &i.node.dir {
                needs.extend(d.positions());
            }
            i.node.parents.first().map(|k| k.parent)
        };
        // A rename of a directory above is part of the way to it.
        let mut steps = 0;
        while let Some(id) = at {
            if id == InodeId::ROOT || steps > 4096 {
                break;
            }
            let Some(c) = self.table.get(id) else { break };
            let i = c.read();
            needs.push(i.node.links);
            at = i.node.parents.first().map(|k| k.parent);
            steps += 1;
        }
        needs.retain(|p| !self.wal.is_durable(p));
        needs
    }

    /// Makes `cell` durable; `done` is called once, here or on a committer's thread.
    pub fn fsync(
        &self,
        cell: &Arc<Cell>,
        who: &ClientSlot,
        done: Box<dyn FnOnce(Result<(), SyncFailed>) + Send>,
    ) {
        let needs = self.sync_needs(cell, who);
        self.wal.sync(&needs, done);
    }
}
