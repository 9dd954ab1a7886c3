//! What an object's own metadata says of a file, in two families of keys that other programs read: `mode`, `uid`,
//! `gid`, `mtime` (s3fs, rclone, GeeseFS) and `file-*` (the AWS file services). `forelog-id` is ours: the
//! number of the object, which it keeps when it is copied to another key, and one of its latest version.

use crate::types::{Attr, Kind, Stamp};
use std::collections::HashMap;
use std::hash::Hasher;

/// Content type of a directory's marker.
pub const DIRECTORY_TYPE: &str = "application/x-directory";

/// Numbers of objects lie below those of inodes made here, and above the few reserved ones.
const ID_BITS: u64 = (1 << 62) - 1;
const ID_MIN: u64 = 1 << 10;

const TYPE_BITS: u32 = 0o170_000;

/// The attributes kept with an object, and what others keep there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub id: u64,
    /// Of this version: by it a write is known as ours when its answer was lost. 0: not written here.
    pub version: u64,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub mtime: Stamp,
    pub atime: Stamp,
    /// Extended attributes lie beside it.
    pub xattrs: bool,
    /// Other programs' keys, kept when the object is copied.
    pub other: Vec<(String, String)>,
    /// Headers kept when the object is copied: content type, encoding, language, disposition, cache control.
    pub headers: [Option<String>; 5],
}

/// Hash of a few byte strings as an object's number.
pub fn id_of(parts: &[&[u8]]) -> u64 {
    let mut h = siphasher::sip::SipHasher13::new();
    for p in parts {
        h.write_u64(p.len() as u64);
        h.write(p);
    }
    as_id(h.finish())
}

/// A number as one of an object.
pub fn as_id(n: u64) -> u64 {
    (n & ID_BITS).max(ID_MIN)
}

fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::File => 0o100_000,
        Kind::Dir => 0o040_000,
        Kind::Symlink => 0o120_000,
        Kind::Fifo => 0o010_000,
        Kind::Socket => 0o140_000,
        Kind::CharDev => 0o020_000,
        Kind::BlockDev => 0o060_000,
    }
}

fn kind_of(bits: u32) -> Option<Kind> {
    let all = [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDev, Kind::BlockDev];
    all.into_iter().find(|&k| type_bits(k) == bits & TYPE_BITS)
}

/// `0100644` is octal, `33188` decimal.
fn mode_of(text: &str) -> Option<u32> {
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}

/// `SEC`, `SEC.FRACTION`, or with a unit: `…ns`, `…ms`.
fn stamp_of(text: &str) -> Option<Stamp> {
    if let Some(n) = text.strip_suffix("ns") {
        return Some(Stamp::from_ns(n.parse().ok()?));
    }
    if let Some(n) = text.strip_suffix("ms") {
        return Some(Stamp::from_ns(n.parse::<i64>().ok()?.checked_mul(1_000_000)?));
    }
    let (secs, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut digits: String = fraction.chars().take(9).collect();
    while digits.len() < 9 {
        digits.push('0');
    }
    let (whole, nanos) = (secs.parse::<i64>().ok()?, digits.parse::<u32>().ok()?);
    // -1.25 is a quarter before -1.
    match secs.starts_with('-') && nanos > 0 {
        true => Some(Stamp { secs: whole - 1, nanos: 1_000_000_000 - nanos }),
        false => Some(Stamp { secs: whole, nanos }),
    }
}

fn show_stamp(s: Stamp) -> String {
    match s.secs < 0 && s.nanos > 0 {
        true => format!("-{}.{:09}", -(s.secs + 1), 1_000_000_000 - s.nanos),
        false => format!("{}.{:09}", s.secs, s.nanos),
    }
}

/// What is known of an object beside its metadata.
pub struct Found<'a> {
    pub key: &'a str,
    pub etag: &'a str,
    pub modified: Stamp,
    pub headers: [Option<String>; 5],
}

impl Meta {
    /// Of a new object.
    pub fn new(id: u64, attr: &Attr, xattrs: bool) -> Meta {
        Meta {
            id,
            version: 0,
            kind: attr.kind,
            mode: attr.mode & 0o7777,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            mtime: attr.mtime,
            atime: attr.atime,
            xattrs,
            other: Vec::new(),
            headers: Default::default(),
        }
    }

    /// Of a directory that has no marker.
    pub fn implicit(key: &str, uid: u32, gid: u32, at: Stamp) -> Meta {
        Meta {
            id: id_of(&[b"directory", key.as_bytes()]),
            version: 0,
            kind: Kind::Dir,
            mode: 0o755,
            uid,
            gid,
            rdev: 0,
            mtime: at,
            atime: at,
            xattrs: false,
            other: Vec::new(),
            headers: Default::default(),
        }
    }

    /// From an object's metadata; what it does not say is `uid`, `gid` and the store's own time.
    pub fn read(found: Found<'_>, map: &HashMap<String, String>, uid: u32, gid: u32) -> Meta {
        let is_dir = found.key.ends_with('/');
        let get = |names: &[&str]| names.iter().find_map(|n| map.get(*n)).map(|v| v.trim());
        let bits = get(&["mode", "file-permissions"]).and_then(mode_of);
        let kind = match (is_dir, bits.and_then(kind_of)) {
            (true, _) => Kind::Dir,
            (false, Some(Kind::Dir) | None) => Kind::File,
            (false, Some(k)) => k,
        };
        let number = |names: &[&str]| get(names).and_then(|t| t.parse::<u32>().ok());
        let mtime = get(&["mtime", "file-mtime"]).and_then(stamp_of).unwrap_or(found.modified);
        let ids = get(&["forelog-id"]).and_then(|t| {
            let (id, version) = t.split_once('-')?;
            Some((u64::from_str_radix(id, 16).ok()?, u64::from_str_radix(version, 16).ok()?))
        });
        // A foreign object that another replaces is another one: by its content and the second it came.
        let foreign = || match is_dir {
            true => id_of(&[b"directory", found.key.as_bytes()]),
            false => {
                let came = found.modified.secs.to_le_bytes();
                id_of(&[b"object", found.key.as_bytes(), found.etag.as_bytes(), &came])
            }
        };
        const OURS: [&str; 13] = [
            "mode",
            "uid",
            "gid",
            "mtime",
            "atime",
            "rdev",
            "file-mtime",
            "file-atime",
            "file-permissions",
            "file-owner",
            "file-group",
            "forelog-id",
            "forelog-xattrs",
        ];
        let mut other: Vec<(String, String)> = map
            .iter()
            .filter(|(k, _)| !OURS.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        other.sort();
        Meta {
            id: ids.map_or_else(foreign, |i| as_id(i.0)),
            version: ids.map_or(0, |i| i.1),
            kind,
            mode: bits.map_or(if is_dir { 0o755 } else { 0o644 }, |b| b & 0o7777),
            uid: number(&["uid", "file-owner"]).unwrap_or(uid),
            gid: number(&["gid", "file-group"]).unwrap_or(gid),
            rdev: number(&["rdev"]).unwrap_or(0),
            mtime,
            atime: get(&["atime", "file-atime"]).and_then(stamp_of).unwrap_or(mtime),
            xattrs: map.contains_key("forelog-xattrs"),
            other,
            headers: found.headers,
        }
    }

    /// As metadata of an object.
    pub fn write(&self) -> HashMap<String, String> {
        let bits = type_bits(self.kind) | self.mode;
        let mode = format!("0{bits:06o}");
        let mut map: HashMap<String, String> = self.other.iter().cloned().collect();
        let ns = i128::from(self.mtime.secs) * 1_000_000_000 + i128::from(self.mtime.nanos);
        let mut put = |k: &str, v: String| {
            map.insert(k.into(), v);
        };
        put("mode", mode.clone());
        put("uid", self.uid.to_string());
        put("gid", self.gid.to_string());
        put("mtime", show_stamp(self.mtime));
        put("atime", show_stamp(self.atime));
        put("file-permissions", mode);
        put("file-owner", self.uid.to_string());
        put("file-group", self.gid.to_string());
        put("file-mtime", format!("{ns}ns"));
        if matches!(self.kind, Kind::CharDev | Kind::BlockDev) {
            put("rdev", self.rdev.to_string());
        }
        if self.xattrs {
            put("forelog-xattrs", "beside".into());
        }
        put("forelog-id", format!("{:016x}-{:016x}", self.id, self.version));
        map
    }

    /// The same to everyone who reads it, version and access time aside.
    pub fn says_as(&self, other: &Meta) -> bool {
        let same = Meta { version: other.version, atime: other.atime, ..self.clone() };
        same == *other
    }

    /// As attributes of a file.
    pub fn attr(&self, size: u64, nlink: u32) -> Attr {
        let size = match self.kind {
            Kind::File | Kind::Symlink => size,
            _ => 0,
        };
        Attr {
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            nlink: if self.kind == Kind::Dir { 2 } else { nlink },
            size,
            blocks: size.div_ceil(512),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.mtime,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(key: &str) -> Found<'_> {
        let modified = Stamp { secs: 77, nanos: 0 };
        Found { key, etag: "e", modified, headers: Default::default() }
    }

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        for (kind, key) in [(Kind::File, "a"), (Kind::Symlink, "a"), (Kind::Dir, "a/"), (Kind::BlockDev, "b")]
        {
            let stamp = Stamp { secs: -5, nanos: 250_000_000 };
            let m = Meta {
                id: 0x1234_5678,
                version: 9,
                kind,
                mode: 0o4755,
                uid: 7,
                gid: 8,
                rdev: if kind == Kind::BlockDev { 0x801 } else { 0 },
                mtime: stamp,
                atime: Stamp { secs: 1, nanos: 1 },
                xattrs: true,
                other: vec![("theirs".into(), "x".into())],
                headers: Default::default(),
            };
            assert_eq!(Meta::read(found(key), &m.write(), 0, 0), m);
        }
    }

    #[test]
    fn others_write_it_in_their_ways() {
        let s3fs = map(&[("mode", "33188"), ("uid", "5"), ("gid", "6"), ("mtime", "1700000000")]);
        let m = Meta::read(found("k"), &s3fs, 1, 2);
        assert_eq!((m.kind, m.mode, m.uid, m.gid, m.mtime.secs), (Kind::File, 0o644, 5, 6, 1_700_000_000));
        let rclone = map(&[("mtime", "1354040105.123456789")]);
        let m = Meta::read(found("k"), &rclone, 1, 2);
        assert_eq!((m.mode, m.uid, m.mtime), (0o644, 1, Stamp { secs: 1_354_040_105, nanos: 123_456_789 }));
        let aws = map(&[
            ("file-permissions", "0100600"),
            ("file-owner", "9"),
            ("file-mtime", "1595002920000000000ns"),
        ]);
        let m = Meta::read(found("k"), &aws, 1, 2);
        assert_eq!((m.mode, m.uid, m.mtime.secs), (0o600, 9, 1_595_002_920));
        let m = Meta::read(found("d/"), &map(&[]), 1, 2);
        assert_eq!((m.kind, m.mode, m.mtime.secs), (Kind::Dir, 0o755, 77));
        assert_ne!(m.id, Meta::read(found("e/"), &map(&[]), 1, 2).id);
        let link = map(&[("mode", "0120777")]);
        assert_eq!(Meta::read(found("k"), &link, 0, 0).kind, Kind::Symlink);
    }

    #[test]
    fn times_before_1970() {
        for s in [
            Stamp { secs: -1, nanos: 1 },
            Stamp { secs: -9, nanos: 0 },
            Stamp { secs: -1, nanos: 999_999_999 },
        ] {
            assert_eq!(stamp_of(&show_stamp(s)), Some(s), "{}", show_stamp(s));
        }
    }
}
