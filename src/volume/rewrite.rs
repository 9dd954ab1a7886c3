//! Files that are truncated and written anew (`open` with O_TRUNC, then writes, then `close`): after a power cut
//! such a file is wholly the old or wholly the new one. So the old content is kept beside the new one,
//! its segments with it, until the file is closed or synced, which the log says by a `Settled`. A recovery after
//! a power cut takes the old content back where that record is missing. The writeback leaves such
//! a file alone, for as long as it may wait.

use super::Volume;
use super::apply::At;
use super::error::Result;
use super::table::Inode;
use crate::extents::Map;
use crate::format::mutation::Mutation;
use crate::types::{InodeId, Lsn, Stamp};
use smallvec::SmallVec;

/// What a file was before it was truncated.
pub struct Before {
    pub map: Map,
    pub base_end: u64,
    pub cuts: SmallVec<[(Lsn, u64); 1]>,
    pub size: u64,
    pub blocks: u64,
    pub mtime: Stamp,
    pub data_lsn: Lsn,
    /// When it was truncated, wall clock.
    pub since_ns: i64,
}

impl Before {
    /// The backing's file is now `size` bytes long with all changes up to `upto`.
    pub(super) fn content_stored(&mut self, upto: Lsn, size: u64) {
        self.cuts.retain(|c| c.0 > upto);
        self.base_end = self.cuts.iter().map(|c| c.1).fold(size, u64::min);
        if self.data_lsn <= upto {
            self.data_lsn = Lsn::NONE;
        }
    }
}

impl Volume {
    /// The file is about to be cut to nothing. Further cuts before it is whole again change nothing here.
    pub(super) fn begin_rewriting(&self, i: &mut Inode, at: &At) {
        let n = &mut i.node;
        if n.rewriting != Lsn::NONE {
            return;
        }
        n.rewriting = at.pos.lsn;
        i.before = Some(Box::new(Before {
            map: std::mem::take(&mut i.map),
            base_end: n.base_end,
            cuts: n.cuts.clone(),
            size: n.attr.size,
            blocks: n.attr.blocks,
            mtime: n.attr.mtime,
            data_lsn: n.data_lsn,
            since_ns: at.wall_ns,
        }));
    }

    /// The new content is whole, or the file is gone: the old one is not needed any more.
    pub(super) fn end_rewriting(&self, i: &mut Inode) {
        i.node.rewriting = Lsn::NONE;
        if let Some(b) = i.before.take() {
            b.map.iter().for_each(|(_, e)| self.superseded(e));
        }
    }

    /// After a power cut: files whose new content is not known to be whole are what they were. Returns how many.
    pub(super) fn take_back(&self) -> u64 {
        let mut count = 0;
        for cell in self.table.all() {
            let mut i = cell.write();
            let i = &mut *i;
            let Some(b) = i.before.take() else { continue };
            i.map.iter().for_each(|(_, e)| self.superseded(e));
            i.map = b.map;
            let n = &mut i.node;
            n.rewriting = Lsn::NONE;
            (n.base_end, n.cuts, n.data_lsn) = (b.base_end, b.cuts, b.data_lsn);
            (n.attr.size, n.attr.blocks, n.attr.mtime) = (b.size, b.blocks, b.mtime);
            log::warn!(
                "inode {} was being written anew when the power went: it is what it was before",
                cell.id
            );
            count += 1;
        }
        count
    }

    /// When the file was truncated that is being written anew, wall clock. `None`: it is whole.
    pub fn rewriting_since(&self, ino: InodeId) -> Option<i64> {
        let cell = self.table.get(ino)?;
        let i = cell.read();
        i.before.as_ref().map(|b| b.since_ns)
    }

    /// Files that are being written anew.
    pub fn being_rewritten(&self) -> Vec<InodeId> {
        self.table.all().iter().filter(|c| c.read().before.is_some()).map(|c| c.id).collect()
    }

    /// Gives up the old content of a file that is still written anew. Errors: the log is full or failed.
    pub fn settle_rewriting(&self, ino: InodeId) -> Result<()> {
        if self.rewriting_since(ino).is_none() {
            return Ok(());
        }
        self.record(&Mutation::Settled { ino })
    }
}
