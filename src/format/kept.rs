//! A file of old contents, kept for undo: what the backing held before the writeback changed it there. Entries one after
//! the other, each a frame with checksums over its body and its data.

use super::checksum::crc;
use super::codec::Malformed;
use crate::types::Attr;
use serde::{Deserialize, Serialize};

/// Bytes before an entry's body.
pub const HEAD_BYTES: usize = 20;
/// Largest body: attributes with extended ones and a symlink's target.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Most data in one entry.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// Version of the entries, in `Entry::Begin`.
pub const VERSION: u32 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"FLk1");

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// The first of a file.
    Begin { version: u32, wall_ns: i64 },
    /// An object as the backing had it; its old bytes follow, as far as they were about to change.
    Old(Old),
    /// Bytes at this offset; they are the entry's data.
    Bytes { offset: u64 },
    /// Zeros.
    Hole { offset: u64, len: u64 },
    /// The object's old bytes are complete.
    Done,
    /// What an object was before could not be kept.
    Lost { ino: u64, data: u64, meta: u64, wall_ns: i64, why: String },
}

/// An object before a change of it in the backing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Old {
    pub ino: u64,
    /// The change brings content and attributes as of these records; `u64::MAX`: it removes the object.
    pub data: u64,
    pub meta: u64,
    pub wall_ns: i64,
    /// No record that the backing lacks is older.
    pub since_ns: i64,
    pub attr: Attr,
    pub target: Vec<u8>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A frame's head, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub body_bytes: usize,
    pub data_bytes: usize,
    pub data_crc: u32,
    body_crc: u32,
}

/// A frame without its data, which come behind it.
pub fn encode(entry: &Entry, data: &[u8]) -> Vec<u8> {
    let body = bincode::serde::encode_to_vec(entry, bincode::config::standard())
        .expect("numbers, texts and options always serialise");
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    for n in [MAGIC, crc(&body), body.len() as u32, data.len() as u32, crc(data)] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(&body);
    out
}

/// Reads a frame's head.
pub fn head(bytes: &[u8; HEAD_BYTES]) -> Result<Head, Malformed> {
    let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|n| bytes[4 * i + n]));
    let h = Head {
        body_crc: word(1),
        body_bytes: word(2) as usize,
        data_bytes: word(3) as usize,
        data_crc: word(4),
    };
    match word(0) == MAGIC && h.body_bytes <= BODY_BYTES_MAX && h.data_bytes <= DATA_BYTES_MAX {
        true => Ok(h),
        false => Err(Malformed("kept: entry")),
    }
}

/// Reads a frame's body.
pub fn body(head: &Head, bytes: &[u8]) -> Result<Entry, Malformed> {
    if crc(bytes) != head.body_crc {
        return Err(Malformed("kept: checksum"));
    }
    let config = bincode::config::standard().with_limit::<BODY_BYTES_MAX>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((entry, n)) if n == bytes.len() => Ok(entry),
        _ => Err(Malformed("kept: body")),
    }
}

/// Whether these are an entry's data.
pub fn is_sound(head_crc: u32, data: &[u8]) -> bool {
    crc(data) == head_crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip_and_damage_is_seen() {
        let lost = Entry::Lost { ino: 7, data: u64::MAX, meta: 3, wall_ns: -1, why: "too large".into() };
        for (entry, data) in [(Entry::Bytes { offset: 9 }, &b"abc"[..]), (lost, b"")] {
            let frame = encode(&entry, data);
            let h = head(frame[..HEAD_BYTES].try_into().unwrap()).unwrap();
            assert_eq!((h.data_bytes, is_sound(h.data_crc, data)), (data.len(), true));
            assert_eq!(body(&h, &frame[HEAD_BYTES..]).unwrap(), entry);
            let mut bad = frame.clone();
            *bad.last_mut().unwrap() ^= 1;
            body(&h, &bad[HEAD_BYTES..]).unwrap_err();
            assert!(!is_sound(h.data_crc, b"abd"));
        }
        head(&[0; HEAD_BYTES]).unwrap_err();
    }
}
