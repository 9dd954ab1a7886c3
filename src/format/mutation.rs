//! The mutations: every change of the volume as one value. The live path and recovery apply the same
//! ones. All are absolute (they say what is, not by how much it changes), so that applying one
//! never needs to ask the backing.

use super::codec::{Malformed, Reader, Writer};
use crate::types::{Attr, BackingId, InodeId, Kind, Lsn, NAME_BYTES_MAX, Name, Stamp};

/// Which attributes a `SetAttr` sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttrSet {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Stamp>,
    pub mtime: Option<Stamp>,
    pub ctime: Option<Stamp>,
}

/// One name in one directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EntryKey {
    pub parent: InodeId,
    pub name: Name,
}

/// A change of the volume. Where it says so, the record's data part holds bytes that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// An object that the backing held is about to be changed: who and where it is. Changes nothing.
    Adopt { ino: InodeId, id: BackingId, at: EntryKey, attr: Attr },
    /// A new object at a free name. Data: the symlink's target, else its extended attributes.
    Create { at: EntryKey, ino: InodeId, attr: Attr },
    /// A further name of a non-directory.
    Link { at: EntryKey, ino: InodeId },
    /// A name of a non-directory goes.
    Unlink { at: EntryKey, ino: InodeId },
    /// An empty directory goes.
    Rmdir { at: EntryKey, ino: InodeId },
    /// `ino` moves; `replaced` is what stood at the target and loses that name.
    Rename { from: EntryKey, to: EntryKey, ino: InodeId, replaced: Option<InodeId> },
    /// Two objects change places.
    Exchange { a: EntryKey, b: EntryKey, ino_a: InodeId, ino_b: InodeId },
    /// `Rename`, and a character device 0:0 comes to be where `ino` was: what an overlay filesystem takes for a
    /// deleted name of the layer below (RENAME_WHITEOUT of renameat2(2)).
    Whiteout {
        from: EntryKey,
        to: EntryKey,
        ino: InodeId,
        replaced: Option<InodeId>,
        white: InodeId,
        attr: Attr,
    },
    /// Bytes at an offset. Data: the bytes.
    Write { ino: InodeId, offset: u64, clear_suid: bool },
    /// Attributes, the size among them.
    SetAttr { ino: InodeId, set: AttrSet },
    /// A range reads as zeros; the file is at least `size` bytes long.
    Zero { ino: InodeId, offset: u64, len: u64, size: u64 },
    /// The whole set of extended attributes. Data: the set, see `encode_xattrs`.
    SetXattrs { ino: InodeId },
    /// A truncated file was closed or synced: its new content is whole.
    Settled { ino: InodeId },
    /// The writeback is about to bring `ino` (there: `id`) to this place in the backing.
    Intent { ino: InodeId, id: BackingId, at: EntryKey },
    /// The backing holds the content (up to `data`, `size` bytes long) and attributes (up to `meta`) of `ino`.
    /// `seen`: the modification time that its file has there with it.
    Stored { ino: InodeId, data: Lsn, meta: Lsn, size: u64, seen: Option<Stamp> },
    /// What the backing holds under a name now; it agrees with every change of it up to `as_of`.
    Placed { at: EntryKey, as_of: Lsn, holds: Option<(InodeId, BackingId)> },
    /// The writeback is about to change the content of `ino` where it is: until it is stored, what time and size
    /// its file has in the backing says nothing.
    Updating { ino: InodeId },
    /// All intents before are done or dropped, and what came of them was logged.
    Closed,
}

/// Number of a mutation on disk.
impl Mutation {
    pub fn kind(&self) -> u8 {
        match self {
            Mutation::Adopt { .. } => 1,
            Mutation::Create { .. } => 2,
            Mutation::Link { .. } => 3,
            Mutation::Unlink { .. } => 4,
            Mutation::Rmdir { .. } => 5,
            Mutation::Rename { .. } => 6,
            Mutation::Exchange { .. } => 7,
            Mutation::Write { .. } => 8,
            Mutation::SetAttr { .. } => 9,
            Mutation::Zero { .. } => 10,
            Mutation::SetXattrs { .. } => 11,
            Mutation::Settled { .. } => 12,
            Mutation::Intent { .. } => 13,
            Mutation::Stored { seen: None, .. } => 14,
            Mutation::Stored { .. } => 18,
            Mutation::Updating { .. } => 19,
            Mutation::Placed { .. } => 15,
            Mutation::Closed => 16,
            Mutation::Whiteout { .. } => 17,
        }
    }

    /// Appends the fields to `out` (behind the predecessors).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        match self {
            Mutation::Adopt { ino, id, at, attr } => {
                w.u64(ino.0);
                w.u64(id.0);
                put_key(&mut w, at);
                put_attr(&mut w, attr);
            }
            Mutation::Create { at, ino, attr } => {
                put_key(&mut w, at);
                w.u64(ino.0);
                put_attr(&mut w, attr);
            }
            Mutation::Link { at, ino } | Mutation::Unlink { at, ino } | Mutation::Rmdir { at, ino } => {
                put_key(&mut w, at);
                w.u64(ino.0);
            }
            Mutation::Rename { from, to, ino, replaced } => {
                put_key(&mut w, from);
                put_key(&mut w, to);
                w.u64(ino.0);
                w.u64(replaced.map_or(0, |r| r.0));
            }
            Mutation::Whiteout { from, to, ino, replaced, white, attr } => {
                put_key(&mut w, from);
                put_key(&mut w, to);
                w.u64(ino.0);
                w.u64(replaced.map_or(0, |r| r.0));
                w.u64(white.0);
                put_attr(&mut w, attr);
            }
            Mutation::Exchange { a, b, ino_a, ino_b } => {
                put_key(&mut w, a);
                put_key(&mut w, b);
                w.u64(ino_a.0);
                w.u64(ino_b.0);
            }
            Mutation::Write { ino, offset, clear_suid } => {
                w.u64(ino.0);
                w.u64(*offset);
                w.u8(*clear_suid as u8);
            }
            Mutation::SetAttr { ino, set } => {
                w.u64(ino.0);
                put_set(&mut w, set);
            }
            Mutation::Zero { ino, offset, len, size } => {
                w.u64(ino.0);
                w.u64(*offset);
                w.u64(*len);
                w.u64(*size);
            }
            Mutation::SetXattrs { ino } | Mutation::Settled { ino } | Mutation::Updating { ino } => {
                w.u64(ino.0)
            }
            Mutation::Closed => {}
            Mutation::Intent { ino, id, at } => {
                w.u64(ino.0);
                w.u64(id.0);
                put_key(&mut w, at);
            }
            Mutation::Stored { ino, data, meta, size, seen } => {
                w.u64(ino.0);
                w.u64(data.0);
                w.u64(meta.0);
                w.u64(*size);
                if let Some(s) = seen {
                    put_stamp(&mut w, s);
                }
            }
            Mutation::Placed { at, as_of, holds } => {
                put_key(&mut w, at);
                w.u64(as_of.0);
                w.u64(holds.map_or(0, |h| h.0.0));
                w.u64(holds.map_or(0, |h| h.1.0));
            }
        }
    }

    /// Reads the fields of a mutation of this kind.
    pub fn decode(kind: u8, bytes: &[u8]) -> Result<Mutation, Malformed> {
        let mut r = Reader::new(bytes, "mutation");
        let m = match kind {
            1 => Mutation::Adopt {
                ino: ino(&mut r)?,
                id: BackingId(r.u64()?),
                at: key(&mut r)?,
                attr: attr(&mut r)?,
            },
            2 => Mutation::Create { at: key(&mut r)?, ino: ino(&mut r)?, attr: attr(&mut r)? },
            3 => Mutation::Link { at: key(&mut r)?, ino: ino(&mut r)? },
            4 => Mutation::Unlink { at: key(&mut r)?, ino: ino(&mut r)? },
            5 => Mutation::Rmdir { at: key(&mut r)?, ino: ino(&mut r)? },
            6 => Mutation::Rename {
                from: key(&mut r)?,
                to: key(&mut r)?,
                ino: ino(&mut r)?,
                replaced: Some(r.u64()?).filter(|&n| n != 0).map(InodeId),
            },
            7 => Mutation::Exchange {
                a: key(&mut r)?,
                b: key(&mut r)?,
                ino_a: ino(&mut r)?,
                ino_b: ino(&mut r)?,
            },
            8 => Mutation::Write { ino: ino(&mut r)?, offset: r.u64()?, clear_suid: r.u8()? != 0 },
            9 => Mutation::SetAttr { ino: ino(&mut r)?, set: set(&mut r)? },
            10 => Mutation::Zero { ino: ino(&mut r)?, offset: r.u64()?, len: r.u64()?, size: r.u64()? },
            11 => Mutation::SetXattrs { ino: ino(&mut r)? },
            12 => Mutation::Settled { ino: ino(&mut r)? },
            13 => Mutation::Intent { ino: ino(&mut r)?, id: BackingId(r.u64()?), at: key(&mut r)? },
            14 | 18 => Mutation::Stored {
                ino: ino(&mut r)?,
                data: Lsn(r.u64()?),
                meta: Lsn(r.u64()?),
                size: r.u64()?,
                seen: if kind == 18 { Some(stamp(&mut r)?) } else { None },
            },
            15 => Mutation::Placed {
                at: key(&mut r)?,
                as_of: Lsn(r.u64()?),
                holds: Some((InodeId(r.u64()?), BackingId(r.u64()?))).filter(|h| h.0.0 != 0),
            },
            16 => Mutation::Closed,
            17 => Mutation::Whiteout {
                from: key(&mut r)?,
                to: key(&mut r)?,
                ino: ino(&mut r)?,
                replaced: Some(r.u64()?).filter(|&n| n != 0).map(InodeId),
                white: ino(&mut r)?,
                attr: attr(&mut r)?,
            },
            19 => Mutation::Updating { ino: ino(&mut r)? },
            _ => return Err(Malformed("mutation: unknown kind")),
        };
        r.end()?;
        Ok(m)
    }
}

fn ino(r: &mut Reader<'_>) -> Result<InodeId, Malformed> {
    match r.u64()? {
        0 => Err(Malformed("mutation: inode 0")),
        n => Ok(InodeId(n)),
    }
}

fn put_key(w: &mut Writer<'_>, k: &EntryKey) {
    w.u64(k.parent.0);
    w.bytes(&k.name);
}

fn key(r: &mut Reader<'_>) -> Result<EntryKey, Malformed> {
    let parent = InodeId(r.u64()?);
    let name = r.bytes()?;
    if name.len() > NAME_BYTES_MAX || name.contains(&b'/') || name.contains(&0) {
        return Err(Malformed("mutation: name"));
    }
    Ok(EntryKey { parent, name: name.into() })
}

fn put_stamp(w: &mut Writer<'_>, s: &Stamp) {
    w.i64(s.secs);
    w.u32(s.nanos);
}

fn stamp(r: &mut Reader<'_>) -> Result<Stamp, Malformed> {
    let s = Stamp { secs: r.i64()?, nanos: r.u32()? };
    if s.nanos >= 1_000_000_000 { Err(Malformed("time")) } else { Ok(s) }
}

fn put_attr(w: &mut Writer<'_>, a: &Attr) {
    w.u8(a.kind as u8);
    for v in [a.mode, a.uid, a.gid, a.rdev, a.nlink] {
        w.u32(v);
    }
    w.u64(a.size);
    w.u64(a.blocks);
    for t in [&a.atime, &a.mtime, &a.ctime] {
        put_stamp(w, t);
    }
}

fn attr(r: &mut Reader<'_>) -> Result<Attr, Malformed> {
    Ok(Attr {
        kind: Kind::from_u8(r.u8()?).ok_or(Malformed("attributes: kind"))?,
        mode: r.u32()? & 0o7777,
        uid: r.u32()?,
        gid: r.u32()?,
        rdev: r.u32()?,
        nlink: r.u32()?,
        size: r.u64()?,
        blocks: r.u64()?,
        atime: stamp(r)?,
        mtime: stamp(r)?,
        ctime: stamp(r)?,
    })
}

fn put_set(w: &mut Writer<'_>, s: &AttrSet) {
    let bits = (s.mode.is_some() as u8)
        | (s.uid.is_some() as u8) << 1
        | (s.gid.is_some() as u8) << 2
        | (s.size.is_some() as u8) << 3
        | (s.atime.is_some() as u8) << 4
        | (s.mtime.is_some() as u8) << 5
        | (s.ctime.is_some() as u8) << 6;
    w.u8(bits);
    for v in [s.mode, s.uid, s.gid].into_iter().flatten() {
        w.u32(v);
    }
    if let Some(v) = s.size {
        w.u64(v);
    }
    for t in [s.atime, s.mtime, s.ctime].into_iter().flatten() {
        put_stamp(w, &t);
    }
}

fn set(r: &mut Reader<'_>) -> Result<AttrSet, Malformed> {
    let bits = r.u8()?;
    let has = |n: u8| bits & (1 << n) != 0;
    let mut s = AttrSet::default();
    if has(0) {
        s.mode = Some(r.u32()? & 0o7777);
    }
    if has(1) {
        s.uid = Some(r.u32()?);
    }
    if has(2) {
        s.gid = Some(r.u32()?);
    }
    if has(3) {
        s.size = Some(r.u64()?);
    }
    for (n, slot) in [(4, &mut s.atime), (5, &mut s.mtime), (6, &mut s.ctime)] {
        if has(n) {
            *slot = Some(stamp(r)?);
        }
    }
    Ok(s)
}

/// The data part of `SetXattrs`.
pub fn encode_xattrs(set: &[(Name, Vec<u8>)]) -> Vec<u8> {
    let mut v = Vec::new();
    let mut w = Writer(&mut v);
    for (name, value) in set {
        w.bytes(name);
        w.u32(value.len() as u32);
        w.0.extend_from_slice(value);
    }
    v
}

/// Reads the data part of `SetXattrs`.
pub fn decode_xattrs(bytes: &[u8]) -> Result<Vec<(Name, Vec<u8>)>, Malformed> {
    let mut r = Reader::new(bytes, "extended attributes");
    let mut out = Vec::new();
    let mut left = bytes.len();
    while left > 0 {
        let name: Name = r.bytes()?.into();
        let n = r.u32()? as usize;
        let value = r.take(n)?.to_vec();
        left = left.checked_sub(2 + name.len() + 4 + n).ok_or(Malformed("extended attributes"))?;
        out.push((name, value));
    }
    Ok(out)
}
