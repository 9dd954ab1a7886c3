//! The checkpoint: all that the log's volume must know beside the records that follow it. serde +
//! bincode inside a versioned frame with a checksum over the whole.

use super::checksum::crc;
use super::codec::Malformed;
use crate::types::{Attr, Stamp};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"FORELOGC";
/// The version this build writes.
pub const VERSION: u32 = 4;

/// The oldest version that is read: without what was seen of files in the backing, the last field (added by
/// version 4), and without the files that are being written anew, the one before it (version 3).
const OLDEST: u32 = 2;
const HEAD: usize = 8 + 4 + 4 + 8;
/// A checkpoint larger than this is refused: no allocation follows an unchecked length.
pub const BYTES_MAX: u64 = 4 << 30;

/// A range of a file that lies in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedExtent {
    pub start: u64,
    pub len: u64,
    pub lsn: u64,
    pub source: SavedSource,
}

/// Where the bytes of a `SavedExtent` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedSource {
    Log { segment: u32, record: u32, data: u32 },
    Zero,
    Damaged,
}

/// A name of a directory that the backing does not agree on yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedEntry {
    pub name: Vec<u8>,
    pub target: Option<u64>,
    pub lsn: u64,
}

/// An inode that is the object `id` of the backing, with its known names there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedObject {
    pub ino: u64,
    pub id: u64,
    pub names: Vec<(u64, Vec<u8>)>,
}

/// Something that the writeback was about to put somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedIntent {
    pub ino: u64,
    pub id: u64,
    pub parent: u64,
    pub name: Vec<u8>,
}

/// An inode that differs from the backing, or stands above one that does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedInode {
    pub ino: u64,
    pub attr: Attr,
    pub target: Vec<u8>,
    pub xattrs: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    pub meta_lsn: u64,
    pub data_lsn: u64,
    pub xattrs_lsn: u64,
    pub rewriting: u64,
    pub dirty_since_ns: i64,
    /// Bytes of the backing's file that are still part of this one.
    pub base_end: u64,
    pub cuts: Vec<(u64, u64)>,
    /// The directory was made here and the backing knows none of its names.
    pub complete: bool,
    pub entries: Vec<SavedEntry>,
    pub parents: Vec<(u64, Vec<u8>)>,
    pub extents: Vec<SavedExtent>,
}

/// The old content of a file that is being written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedBefore {
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub mtime: Stamp,
    pub data_lsn: u64,
    pub since_ns: i64,
    pub base_end: u64,
    pub cuts: Vec<(u64, u64)>,
    pub extents: Vec<SavedExtent>,
}

/// A segment file known at the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSegment {
    pub id: u32,
    pub generation: u32,
    /// Bytes that were durable: damage below is damage, above it a torn tail.
    pub durable: u32,
}

/// The whole checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Identity of the log.
    pub log: u128,
    /// Which backing it belongs to.
    pub backing: String,
    /// Everything up to here is in this checkpoint or in the backing.
    pub lsn: u64,
    pub next_ino: u64,
    pub next_generation: u32,
    /// Boot of the machine that wrote it.
    pub boot: String,
    pub segments: Vec<SavedSegment>,
    pub inodes: Vec<SavedInode>,
    /// What the backing holds of these inodes, and under names on which it does not agree yet.
    pub objects: Vec<SavedObject>,
    pub intents: Vec<SavedIntent>,
    /// Objects of the backing whose inode has another number: those made here. (object, inode)
    pub numbers: Vec<(u64, u64)>,
    /// Files that are being written anew, as they were before.
    pub rewritten: Vec<SavedBefore>,
    /// Modification time and size of files in the backing, as they were seen last.
    pub seen: Vec<(u64, Stamp, u64)>,
}

/// Frames any serde value: magic, version, CRC, length, bincode body.
pub fn encode(c: &Checkpoint) -> Result<Vec<u8>, String> {
    let mut v = vec![0u8; HEAD];
    bincode::serde::encode_into_std_write(c, &mut v, bincode::config::standard())
        .map_err(|e| format!("encoding the checkpoint failed: {e}"))?;
    let sum = crc(&v[HEAD..]);
    let len = (v.len() - HEAD) as u64;
    v[..8].copy_from_slice(MAGIC);
    v[8..12].copy_from_slice(&VERSION.to_le_bytes());
    v[12..16].copy_from_slice(&sum.to_le_bytes());
    v[16..24].copy_from_slice(&len.to_le_bytes());
    Ok(v)
}

/// Reads a checkpoint; a newer version is named as such.
pub fn decode(bytes: &[u8]) -> Result<Checkpoint, Malformed> {
    if bytes.len() < HEAD || &bytes[..8] != MAGIC {
        return Err(Malformed("checkpoint: no magic"));
    }
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    if word(8) > VERSION {
        return Err(Malformed("checkpoint: written by a newer forelog; use that version"));
    }
    if !(OLDEST..=VERSION).contains(&word(8)) {
        return Err(Malformed("checkpoint: unknown version"));
    }
    let len = u64::from_le_bytes(std::array::from_fn(|i| bytes[16 + i]));
    let body = &bytes[HEAD..];
    if len != body.len() as u64 || len > BYTES_MAX {
        return Err(Malformed("checkpoint: length"));
    }
    if crc(body) != word(12) {
        return Err(Malformed("checkpoint: checksum"));
    }
    let mut whole = std::borrow::Cow::Borrowed(body);
    // An empty list for each that is not there.
    for _ in word(8)..VERSION {
        whole.to_mut().push(0);
    }
    // A length in it may ask for memory before its bytes are found to be missing: never for much more than a
    // sound one of this size needs.
    let (c, used) = match whole.len() * MEMORY_TIMES {
        n if n <= SMALL => limited::<SMALL>(&whole),
        n if n <= MIDDLE => limited::<MIDDLE>(&whole),
        n if n <= LARGE => limited::<LARGE>(&whole),
        _ => limited::<{ BYTES_MAX as usize }>(&whole),
    }?;
    if used != whole.len() {
        return Err(Malformed("checkpoint: trailing bytes"));
    }
    Ok(c)
}

/// Bytes in memory for one on disk, at most.
const MEMORY_TIMES: usize = 32;
const SMALL: usize = 1 << 20;
const MIDDLE: usize = 32 << 20;
const LARGE: usize = 512 << 20;

fn limited<const BYTES: usize>(body: &[u8]) -> Result<(Checkpoint, usize), Malformed> {
    let config = bincode::config::standard().with_limit::<BYTES>();
    bincode::serde::decode_from_slice(body, config).map_err(|_| Malformed("checkpoint: body"))
}
