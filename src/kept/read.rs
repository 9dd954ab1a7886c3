//! Reading a file of old contents.

use crate::format::kept::{self, Entry, HEAD_BYTES, Old};
use crate::sys::disk::DiskFile;
use std::io;

/// A range of an old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldRange {
    pub offset: u64,
    pub len: u64,
    /// Where its bytes are in the file, and their checksum; `None`: zeros.
    pub data: Option<(u64, u32)>,
}

/// What is known of an object before a change of it in the backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    Old { old: Box<Old>, ranges: Vec<OldRange> },
    Lost { ino: u64, data: u64, meta: u64, wall_ns: i64, why: String },
}

impl Kept {
    /// Whose it is.
    pub fn ino(&self) -> u64 {
        match self {
            Kept::Old { old, .. } => old.ino,
            Kept::Lost { ino, .. } => *ino,
        }
    }
    /// The change brings content up to this record, and attributes up to the other.
    pub fn upto(&self) -> (u64, u64) {
        match self {
            Kept::Old { old, .. } => (old.data, old.meta),
            Kept::Lost { data, meta, .. } => (*data, *meta),
        }
    }
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub struct Images {
    pub began_ns: i64,
    pub all: Vec<Kept>,
    /// End of the last whole entry.
    pub end: u64,
    /// Nothing lies behind it.
    pub whole: bool,
}

/// Reads what a file holds, as far as it is sound; the bytes themselves are not read.
pub fn read(file: &dyn DiskFile) -> io::Result<Images> {
    let size = file.len()?;
    let mut out = Images::default();
    let mut open: Option<(Box<Old>, Vec<OldRange>)> = None;
    let mut at = 0;
    while let Some((entry, data_at, h)) = entry_at(file, at, size)? {
        let next = data_at + h.data_bytes as u64;
        match entry {
            Entry::Begin { wall_ns, .. } => out.began_ns = wall_ns,
            Entry::Old(old) => open = Some((Box::new(old), Vec::new())),
            Entry::Bytes { offset } => {
                if let Some((_, ranges)) = &mut open {
                    let data = Some((data_at, h.data_crc));
                    ranges.push(OldRange { offset, len: h.data_bytes as u64, data });
                }
            }
            Entry::Hole { offset, len } => {
                if let Some((_, ranges)) = &mut open {
                    ranges.push(OldRange { offset, len, data: None });
                }
            }
            Entry::Done => {
                if let Some((old, ranges)) = open.take() {
                    out.all.push(Kept::Old { old, ranges });
                }
            }
            Entry::Lost { ino, data, meta, wall_ns, why } => {
                open = None;
                out.all.push(Kept::Lost { ino, data, meta, wall_ns, why });
            }
        }
        at = next;
        out.end = at;
    }
    out.whole = out.end == size;
    Ok(out)
}

fn entry_at(file: &dyn DiskFile, at: u64, size: u64) -> io::Result<Option<(Entry, u64, kept::Head)>> {
    let mut head = [0; HEAD_BYTES];
    if at + HEAD_BYTES as u64 > size {
        return Ok(None);
    }
    file.read_exact_at(&mut head, at)?;
    let Ok(h) = kept::head(&head) else { return Ok(None) };
    let data_at = at + (HEAD_BYTES + h.body_bytes) as u64;
    if data_at + h.data_bytes as u64 > size {
        return Ok(None);
    }
    let mut body = vec![0; h.body_bytes];
    file.read_exact_at(&mut body, at + HEAD_BYTES as u64)?;
    Ok(kept::body(&h, &body).ok().map(|e| (e, data_at, h)))
}
