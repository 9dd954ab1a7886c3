//! F2: which bytes of a file are where: ranges that lie in the log over what the backing holds.
//!
//! Invariants: extents never overlap and are never empty; every byte of a log extent is counted live
//! in its segment exactly once (the caller moves the counts by the callbacks).

use crate::types::{ByteRange, Lsn, SegmentId};
use store::Store;

mod store;
#[cfg(test)]
mod tests;

/// Where the bytes of an extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a record's data part; `data` is the segment offset of the extent's first byte.
    Log { segment: SegmentId, record: u32, data: u32 },
    /// Zeros: a hole, or beyond what the backing's file still contributes.
    Zero,
    /// Lost to damage: reads fail.
    Damaged,
}

impl Source {
    fn skip(self, by: u64) -> Source {
        match self {
            Source::Log { segment, record, data } => Source::Log { segment, record, data: data + by as u32 },
            other => other,
        }
    }
}

/// A range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub len: u64,
    pub lsn: Lsn,
    pub source: Source,
}

/// One piece of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub range: ByteRange,
    pub lsn: Lsn,
    /// `None`: the backing's file.
    pub source: Option<Source>,
}

/// The extents of one file.
#[derive(Clone, Debug, Default)]
pub struct Map {
    map: Store,
}

impl Map {
    /// True when nothing lies over the backing.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
    /// Number of extents.
    pub fn len(&self) -> usize {
        self.map.len()
    }
    /// All extents in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Extent)> {
        self.map.iter()
    }

    /// Places an extent; `gone` is told of every piece that it supersedes.
    pub fn insert(&mut self, start: u64, e: Extent, gone: &mut dyn FnMut(&Extent)) {
        if e.len == 0 {
            return;
        }
        self.remove(ByteRange::at(start, e.len), gone);
        self.map.insert(start, e);
    }

    /// Removes whatever lies in a range.
    pub fn remove(&mut self, range: ByteRange, gone: &mut dyn FnMut(&Extent)) {
        if range.is_empty() {
            return;
        }
        // The one that starts before and reaches in.
        if let Some((s, &e)) = self.map.before(range.start)
            && s + e.len > range.start
        {
            let cut = (s + e.len).min(range.end) - range.start;
            self.map.insert(s, Extent { len: range.start - s, ..e });
            if s + e.len > range.end {
                self.map.insert(range.end, tail(&e, range.end - s));
            }
            gone(&Extent { len: cut, ..e });
        }
        while let Some((s, e)) = self.map.first_within(range.start, range.end) {
            self.map.remove(s);
            let end = s + e.len;
            if end > range.end {
                self.map.insert(range.end, tail(&e, range.end - s));
            }
            gone(&Extent { len: end.min(range.end) - s, ..e });
        }
    }

    /// Removes every extent that is no newer than `lsn`: the backing has it.
    pub fn remove_stored(&mut self, lsn: Lsn, gone: &mut dyn FnMut(&Extent)) {
        self.map.retain(|e| {
            let stored = e.lsn <= lsn;
            if stored {
                gone(e);
            }
            !stored
        });
    }

    /// The pieces of a range, in order and without gaps. Between the extents it is the backing's
    /// file up to `base_end` and zeros from there on.
    pub fn plan(&self, range: ByteRange, base_end: u64) -> Vec<Piece> {
        let mut out = Vec::new();
        let mut at = range.start;
        let before = self.map.before(range.start);
        let inside = self.map.within(range.start, range.end);
        for (s, e) in before.into_iter().chain(inside) {
            let end = (s + e.len).min(range.end);
            if end <= at {
                continue;
            }
            let from = s.max(at);
            gap(&mut out, at, from, base_end);
            out.push(Piece {
                range: ByteRange { start: from, end },
                lsn: e.lsn,
                source: Some(e.source.skip(from - s)),
            });
            at = end;
        }
        gap(&mut out, at, range.end, base_end);
        out
    }
}

fn tail(e: &Extent, by: u64) -> Extent {
    Extent { len: e.len - by, lsn: e.lsn, source: e.source.skip(by) }
}

fn gap(out: &mut Vec<Piece>, from: u64, to: u64, base_end: u64) {
    let mid = base_end.clamp(from, to.max(from));
    if from < mid {
        let range = ByteRange { start: from, end: mid };
        out.push(Piece { range, lsn: Lsn::NONE, source: None });
    }
    if mid < to {
        let range = ByteRange { start: mid, end: to };
        out.push(Piece { range, lsn: Lsn::NONE, source: Some(Source::Zero) });
    }
}
