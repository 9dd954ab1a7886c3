//! Reads: log extents, the backing's file, holes, merged.

use super::error::{Error, Result};
use super::table::Cell;
use super::{Buffer, Volume};
use crate::backing::BackingFile;
use crate::extents::{Piece, Source};
use crate::types::{ByteRange, SegmentId};
use crossbeam_epoch as epoch;
use std::io;
use std::sync::Arc;

impl Volume {
    /// Reads up to `len` bytes at `offset`; short only at the end of the file.
    pub fn read(&self, cell: &Arc<Cell>, offset: u64, len: usize) -> Result<Buffer> {
        // Pinned from the plan to the last read of a segment: none of them is recycled meanwhile.
        let guard = epoch::pin();
        let pieces = {
            let i = cell.read();
            let end = i.node.attr.size.min(offset.saturating_add(len as u64));
            if offset >= end {
                return Ok(Buffer::default());
            }
            i.map.plan(ByteRange { start: offset, end }, i.node.base_end)
        };
        let total: u64 = pieces.iter().map(|p| p.range.len()).sum();
        let mut buf = Buffer::of(total as usize);
        let mut base = Vec::new();
        for p in &pieces {
            let at = (p.range.start - offset) as usize;
            let out = &mut buf[at..at + p.range.len() as usize];
            match p.source {
                Some(Source::Zero) => out.fill(0),
                Some(Source::Damaged) => return Err(Error::Damaged),
                Some(Source::Log { segment, data, .. }) => self.read_log(segment, data, out)?,
                None => base.push((at, *p)),
            }
        }
        drop(guard);
        if !base.is_empty() && !self.base_ready(cell, &base, offset, &mut buf) {
            let file = self.base_file(cell)?;
            for (at, p) in base {
                let out = &mut buf[at..at + p.range.len() as usize];
                read_base(&*file, p.range.start, out)?;
            }
        }
        Ok(buf)
    }

    /// Reads what the backing's open file has at hand, where this thread may not wait for it. False: not all of it.
    fn base_ready(&self, cell: &Cell, base: &[(usize, Piece)], offset: u64, buf: &mut [u8]) -> bool {
        if self.may_ask_backing().is_ok() {
            return false;
        }
        let Some(file) = cell.file.lock().clone() else { return false };
        base.iter()
            .all(|(at, p)| file.read_ready(&mut buf[*at..*at + p.range.len() as usize], offset + *at as u64))
    }

    fn read_log(&self, segment: SegmentId, at: u32, out: &mut [u8]) -> Result<()> {
        let seg = self.wal.pool.get(segment).ok_or(Error::Damaged)?;
        seg.file().read_exact_at(out, at as u64).map_err(Error::Log)
    }

    /// The backing's file of an inode, opened once and kept.
    pub fn base_file(&self, cell: &Arc<Cell>) -> Result<Arc<dyn BackingFile>> {
        if let Some(f) = &*cell.file.lock() {
            // Reads of a store that may be slow do not belong on a session thread.
            self.may_ask_backing()?;
            return Ok(f.clone());
        }
        self.may_ask_backing()?;
        // Under its lock: a file that is replaced after this is forgotten then.
        let take = |f: &Arc<dyn BackingFile>, holds: &dyn Fn() -> bool| {
            let mut kept = cell.file.lock();
            let holds = holds();
            if holds {
                *kept = Some(f.clone());
            }
            holds
        };
        let f = self.at_place(cell, |path| self.backing.open(path), take)?.ok_or_else(|| {
            Error::Backing(io::Error::new(io::ErrorKind::NotFound, "the backing lost the file"))
        })?;
        Ok(f)
    }

    /// `SEEK_DATA` (or, with `hole`, `SEEK_HOLE`) from `offset`. Errors: `NoData` beyond the end.
    pub fn seek(&self, cell: &Arc<Cell>, offset: u64, hole: bool) -> Result<u64> {
        let (pieces, size) = {
            let i = cell.read();
            let size = i.node.attr.size;
            if offset >= size {
                return Err(Error::NoData);
            }
            (i.map.plan(ByteRange { start: offset, end: size }, i.node.base_end), size)
        };
        for p in &pieces {
            match self.seek_piece(cell, p, hole)? {
                Some(at) => return Ok(at),
                None => continue,
            }
        }
        if hole { Ok(size) } else { Err(Error::NoData) }
    }

    fn seek_piece(&self, cell: &Arc<Cell>, p: &Piece, hole: bool) -> Result<Option<u64>> {
        let start = p.range.start;
        Ok(match (p.source, hole) {
            (Some(Source::Zero), true) => Some(start),
            (Some(Source::Zero), false) => None,
            (Some(_), h) => (!h).then_some(start),
            (None, false) => {
                let f = self.base_file(cell)?;
                f.next_data(start).map_err(Error::Backing)?.filter(|&d| d < p.range.end)
            }
            (None, true) => {
                let f = self.base_file(cell)?;
                Some(f.next_hole(start).map_err(Error::Backing)?).filter(|&h| h < p.range.end)
            }
        })
    }
}

/// Reads from the backing's file; what it no longer has reads as zeros.
pub(super) fn read_base(file: &dyn BackingFile, offset: u64, out: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => {
                out[done..].fill(0);
                break;
            }
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::Backing(e)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten bytes, and then nothing.
    struct Ten;

    impl BackingFile for Ten {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let n = buf.len().min(10usize.saturating_sub(offset as usize)).min(4);
            buf[..n].fill(b'x');
            Ok(n)
        }
        fn next_data(&self, _: u64) -> io::Result<Option<u64>> {
            Ok(None)
        }
        fn next_hole(&self, _: u64) -> io::Result<u64> {
            Ok(10)
        }
    }

    #[test]
    fn what_the_backing_lost_reads_as_zeros_whatever_the_memory_held() {
        let mut out = [7; 16];
        read_base(&Ten, 2, &mut out).unwrap();
        assert_eq!(&out, b"xxxxxxxx\0\0\0\0\0\0\0\0");
    }
}
