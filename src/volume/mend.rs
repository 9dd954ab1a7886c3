//! After a failed sync of the log: the latched segments are written anew, and what could not be read any more
//! is known as damaged.

use super::Volume;
use crate::extents::{Extent, Source};
use crate::types::SegmentId;
use crate::wal::scan::Damage;
use std::io;
use std::sync::atomic::Ordering;

impl Volume {
    /// Writes latched segments anew (`Wal::mend`). Returns how many are sound again. Errors: the segment that
    /// stays latched, and why.
    pub fn mend(&self) -> Result<usize, (SegmentId, io::Error)> {
        if self.wal.committer.latched.load(Ordering::Acquire) == 0 {
            return Ok(0);
        }
        let _one_at_a_time = self.mending.lock();
        let (mended, failed) = self.wal.mend();
        for m in mended.iter().filter(|m| !m.lost.is_empty()) {
            for d in &m.lost {
                log::error!(
                    "log segment {} has lost {} at {}: reads of it give EIO",
                    d.segment.0,
                    d.what,
                    d.start
                );
            }
            self.damaged(m.segment, &m.lost);
        }
        match failed {
            Some(f) => Err(f),
            None => Ok(mended.len()),
        }
    }

    /// Content that lies in these parts of a segment gives EIO from now on.
    fn damaged(&self, segment: SegmentId, parts: &[Damage]) {
        let hit = |e: &Extent| match e.source {
            Source::Log { segment: s, record, .. } => {
                s == segment && parts.iter().any(|d| d.start <= record && record < d.end)
            }
            _ => false,
        };
        for c in self.table.all() {
            let mut i = c.write();
            let i = &mut *i;
            let before = i.before.as_mut().map(|b| &mut b.map);
            for map in [&mut i.map].into_iter().chain(before) {
                let gone: Vec<(u64, Extent)> =
                    map.iter().filter(|e| hit(e.1)).map(|(at, e)| (at, *e)).collect();
                for (at, e) in gone {
                    let lost = Extent { source: Source::Damaged, ..e };
                    map.insert(at, lost, &mut |old| self.release_live(segment, old.len));
                }
            }
        }
    }
}
