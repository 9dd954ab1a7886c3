//! What an object was at a moment: attributes, content, extended attributes.

use super::history::{DataAt, Rec};
use super::past::{Past, object_of};
use crate::extents::{Extent, Map, Source as In};
use crate::format::kept::Old;
use crate::format::mutation::{Mutation, decode_xattrs};
use crate::kept::read::{Kept, OldRange};
use crate::namespace::acl;
use crate::types::{Attr, ByteRange, InodeId, Kind, Lsn, Name, SegmentId, Stamp};
use crate::volume::without_suid;

/// Where a piece of a content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Zero,
    /// In the object as it is now, at the same place.
    Now,
    /// In a record's data, behind so many bytes.
    Record {
        data: DataAt,
        skip: u32,
    },
    /// In a file of old contents: a piece that begins at `at`, behind so many bytes of it.
    Old {
        file: String,
        at: u64,
        len: u64,
        crc: u32,
        skip: u64,
    },
}

/// A piece of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub range: ByteRange,
    pub source: Source,
}

/// A file's content at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// As it is now.
    Same,
    Pieces {
        size: u64,
        pieces: Vec<Piece>,
    },
}

/// Extended attributes at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xattrs {
    /// As they are now.
    Same,
    These(Vec<(Name, Vec<u8>)>),
}

/// The base of a content.
enum Base {
    Empty,
    /// What the backing held before this image of the object's.
    Image(usize),
}

fn is_content(m: &Mutation) -> bool {
    match m {
        Mutation::Create { .. } | Mutation::Write { .. } | Mutation::Zero { .. } => true,
        Mutation::SetAttr { set, .. } => set.size.is_some(),
        _ => false,
    }
}

/// Applies what a record does to an object's attributes, as the volume does.
fn apply(a: &mut Attr, ino: InodeId, r: &Rec) {
    let now = Stamp::from_ns(r.wall_ns);
    match &r.change {
        Mutation::Write { offset, clear_suid, .. } => {
            a.size = a.size.max(offset + r.content.len as u64);
            a.mtime = now;
            if *clear_suid {
                a.mode = without_suid(a.mode);
            }
        }
        Mutation::Zero { size, .. } => (a.size, a.mtime) = (a.size.max(*size), now),
        Mutation::SetAttr { set, .. } => {
            a.mode = set.mode.unwrap_or(a.mode);
            a.uid = set.uid.unwrap_or(a.uid);
            a.gid = set.gid.unwrap_or(a.gid);
            a.size = set.size.unwrap_or(a.size);
            a.atime = set.atime.unwrap_or(a.atime);
            a.mtime = set.mtime.unwrap_or(a.mtime);
        }
        Mutation::SetXattrs { .. } => {
            let set = decode_xattrs(&r.data).unwrap_or_default();
            if let Some(list) = acl::find(&set, acl::ACCESS) {
                a.mode = list.mode(a.mode);
            }
        }
        Mutation::Create { ino: made, attr, .. } if *made == ino => *a = *attr,
        Mutation::Adopt { .. } => {}
        // A name in it.
        _ => a.mtime = now,
    }
}

fn sets_attributes(ino: InodeId, r: &Rec) -> bool {
    !matches!(&r.change, Mutation::Adopt { .. } | Mutation::Stored { .. } | Mutation::Settled { .. })
        && (object_of(&r.change) == Some(ino) || object_of(&r.change).is_none() || is_name_in(ino, r))
}

fn is_name_in(ino: InodeId, r: &Rec) -> bool {
    super::past::names_before(&r.change).iter().any(|(k, _)| k.parent == ino)
}

impl Past<'_> {
    /// True when nothing of the object changed since: content, attributes, or a name in it.
    pub fn is_same(&self, ino: InodeId) -> bool {
        !self.recs_of(ino).any(|(n, r)| n >= self.cut && sets_attributes(ino, r))
    }

    /// The first kept image of an object of which the store brought something newer than the moment: it tells what was
    /// before.
    fn image_after(&self, ino: InodeId, content: bool) -> Option<usize> {
        let upto = |n: usize| {
            let (data, meta) = self.history.images[n].kept.upto();
            if content { data } else { data.max(meta) }
        };
        self.images.get(&ino)?.iter().copied().find(|&n| upto(n) > self.cut_lsn())
    }

    /// An image as a base, to be followed by all records since the history begins: those that it has already change nothing
    /// in it. Only if all records are kept that the backing did not have by then.
    fn as_base(&self, n: usize) -> Result<&Old, String> {
        match &self.history.images[n].kept {
            Kept::Lost { why, .. } => Err(format!("what it was before is not kept: {why}")),
            Kept::Old { old, .. } if old.since_ns < self.history.floor_ns => {
                Err("it was being changed when the kept history begins".to_owned())
            }
            Kept::Old { old, .. } => Ok(old),
        }
    }

    /// The attributes of an object; `now`: those that it has now, if it still is. Errors: why they cannot be told.
    pub fn attr(&self, ino: InodeId, now: Option<Attr>) -> Result<Attr, String> {
        if let Some(a) = now.filter(|_| self.is_same(ino)) {
            return Ok(a);
        }
        let floor = self.history.floor_ns;
        let next = self.recs_of(ino).find(|(n, r)| {
            *n >= self.cut && (matches!(r.change, Mutation::Adopt { .. }) || sets_attributes(ino, r))
        });
        if let Some((_, Rec { change: Mutation::Adopt { attr, ino: adopted, .. }, .. })) = next
            && *adopted == ino
        {
            return Ok(*attr);
        }
        let base = self.recs_of(ino).filter(|(n, r)| *n < self.cut && r.wall_ns >= floor).fold(
            None,
            |last, (n, r)| match &r.change {
                Mutation::Create { attr, ino: i, .. } | Mutation::Adopt { attr, ino: i, .. } if *i == ino => {
                    Some((n, *attr))
                }
                _ => last,
            },
        );
        let (from, mut attr) = match base {
            Some((n, attr)) => (n + 1, attr),
            None => {
                let n = self.image_after(ino, false).ok_or("what it was before is not known")?;
                (0, self.as_base(n)?.attr)
            }
        };
        for (_, r) in self.recs_of(ino).filter(|(n, r)| (from..self.cut).contains(n) && r.wall_ns >= floor) {
            apply(&mut attr, ino, r);
        }
        Ok(attr)
    }

    /// A symlink's target, where it can be told without the symlink.
    pub fn target(&self, ino: InodeId) -> Option<Vec<u8>> {
        let made = self.recs_of(ino).find_map(|(_, r)| match &r.change {
            Mutation::Create { ino: i, attr, .. } if *i == ino && attr.kind == Kind::Symlink => {
                Some(r.data.clone())
            }
            _ => None,
        });
        made.or_else(|| {
            self.images.get(&ino)?.iter().find_map(|&n| match &self.history.images[n].kept {
                Kept::Old { old, .. } if old.attr.kind == Kind::Symlink => Some(old.target.clone()),
                _ => None,
            })
        })
    }

    /// Extended attributes; `alive`: the object still is. Errors: why they cannot be told.
    pub fn xattrs(&self, ino: InodeId, alive: bool) -> Result<Xattrs, String> {
        let sets = || self.recs_of(ino).filter(|(_, r)| matches!(r.change, Mutation::SetXattrs { .. }));
        if alive && !sets().any(|(n, _)| n >= self.cut) {
            return Ok(Xattrs::Same);
        }
        let made = || {
            self.recs_of(ino).filter(|(n, r)| {
                *n < self.cut && matches!(&r.change, Mutation::Create { ino: i, attr, .. } if *i == ino && attr.kind != Kind::Symlink)
            })
        };
        let floor = self.history.floor_ns;
        let last = made().chain(sets().filter(|(n, _)| *n < self.cut)).filter(|(_, r)| r.wall_ns >= floor);
        if let Some((_, r)) = last.max_by_key(|(n, _)| *n) {
            return decode_xattrs(&r.data).map(Xattrs::These).map_err(|e| e.0.to_owned());
        }
        match self.image_after(ino, false) {
            Some(n) => {
                let list = self.as_base(n)?.xattrs.iter();
                Ok(Xattrs::These(list.map(|(n, v)| (n.as_slice().into(), v.clone())).collect()))
            }
            None => Ok(Xattrs::These(Vec::new())),
        }
    }

    /// A file's content; `alive`: it still is. All that was changed must have been stored. Errors: why it cannot be told.
    pub fn content(&self, ino: InodeId, alive: bool) -> Result<Content, String> {
        let changed = self.recs_of(ino).any(|(n, r)| n >= self.cut && is_content(&r.change));
        if alive && !changed {
            return Ok(Content::Same);
        }
        let floor = self.history.floor_ns;
        // The last moment at which it was empty, if that is within the history.
        let empty = self.recs_of(ino).filter(|(n, r)| *n < self.cut && r.wall_ns >= floor);
        let empty = empty
            .filter(|(_, r)| match &r.change {
                Mutation::Create { ino: i, .. } => *i == ino,
                Mutation::SetAttr { set, .. } => set.size == Some(0),
                _ => false,
            })
            .last();
        let (base, from, mut size) = match (empty, self.image_after(ino, true)) {
            (Some((n, _)), _) => (Base::Empty, n, 0),
            (None, Some(n)) => (Base::Image(n), 0, self.as_base(n)?.attr.size),
            (None, None) if alive => return Err("it is being changed now; try again".to_owned()),
            (None, None) => return Err("what it was before is not known".to_owned()),
        };
        let (mut map, mut base_end) = (Map::default(), size);
        for (n, r) in self.recs_of(ino).filter(|(n, r)| (from..self.cut).contains(n) && r.wall_ns >= floor) {
            let mut put = |offset: u64, len: u64, source: In| {
                map.insert(offset, Extent { len, lsn: Lsn(r.lsn), source }, &mut |_| ());
            };
            match &r.change {
                // The record's place in the history stands for its segment.
                Mutation::Write { offset, .. } => {
                    let len = r.content.len as u64;
                    put(*offset, len, In::Log { segment: SegmentId(n as u32), record: 0, data: 0 });
                    size = size.max(offset + len);
                }
                Mutation::Zero { offset, len, size: least, .. } => {
                    put(*offset, *len, In::Zero);
                    size = size.max(*least);
                }
                Mutation::SetAttr { set, .. } => {
                    let Some(new) = set.size else { continue };
                    map.remove(ByteRange { start: new, end: u64::MAX }, &mut |_| ());
                    (size, base_end) = (new, base_end.min(new));
                }
                _ => {}
            }
        }
        let mut pieces = Vec::new();
        for p in map.plan(ByteRange { start: 0, end: size }, base_end) {
            match (p.source, &base) {
                (Some(In::Log { segment, data, .. }), _) => {
                    let content = self.history.recs[segment.0 as usize].content;
                    pieces
                        .push(Piece { range: p.range, source: Source::Record { data: content, skip: data } });
                }
                (None, Base::Image(n)) => self.pieces_of_images(ino, *n, p.range, alive, &mut pieces)?,
                _ => pieces.push(Piece { range: p.range, source: Source::Zero }),
            }
        }
        Ok(Content::Pieces { size, pieces })
    }

    /// Bytes of what the backing held before an image: in it, else in one after it, else they are what they are now.
    fn pieces_of_images(
        &self,
        ino: InodeId,
        first: usize,
        range: ByteRange,
        alive: bool,
        out: &mut Vec<Piece>,
    ) -> Result<(), String> {
        let mut open = vec![range];
        let later = self.images.get(&ino).into_iter().flatten().filter(|&&n| n >= first);
        for &n in later {
            if open.is_empty() {
                break;
            }
            let image = &self.history.images[n];
            let ranges = match &image.kept {
                Kept::Old { ranges, .. } => ranges,
                // It may have taken any of them.
                Kept::Lost { why, .. } => return Err(format!("what it was before is not kept: {why}")),
            };
            let mut left = Vec::new();
            for want in open {
                take(want, ranges, &image.file, out, &mut left);
            }
            open = left;
        }
        if !open.is_empty() && !alive {
            return Err("some of what it held is not kept".to_owned());
        }
        out.extend(open.into_iter().map(|range| Piece { range, source: Source::Now }));
        Ok(())
    }
}

/// Takes of `want` what the ranges have; the rest is left.
fn take(want: ByteRange, ranges: &[OldRange], file: &str, out: &mut Vec<Piece>, left: &mut Vec<ByteRange>) {
    let mut at = want.start;
    let mut sorted: Vec<&OldRange> = ranges.iter().collect();
    sorted.sort_by_key(|r| r.offset);
    for r in sorted {
        let (start, end) = (r.offset.max(at), (r.offset + r.len).min(want.end));
        if start >= end {
            continue;
        }
        if at < start {
            left.push(ByteRange { start: at, end: start });
        }
        let source = match r.data {
            None => Source::Zero,
            Some((pos, crc)) => {
                Source::Old { file: file.to_owned(), at: pos, len: r.len, crc, skip: start - r.offset }
            }
        };
        out.push(Piece { range: ByteRange { start, end }, source });
        at = end;
    }
    if at < want.end {
        left.push(ByteRange { start: at, end: want.end });
    }
}
