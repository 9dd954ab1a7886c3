//! The frame of a log record: a 64-byte header, the *meta* (predecessors, then the mutation's
//! fields), the data. Frames start at multiples of 64, so that a scan finds the next one behind a
//! damaged one. Header + meta and data have separate checksums; a tag under the log's secret identity binds
//! the frame to its place, so that no bytes of a program, nor another log's, can be taken for a record.

use super::checksum::{crc_more, seed};
use super::codec::Malformed;
use super::segment::UNTAGGED;
use crate::types::{Lsn, SegmentId};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Frames start at multiples of this many bytes.
pub const ALIGN: usize = 64;
/// Size of the header.
pub const HEADER_BYTES: usize = 64;
/// Most predecessors a record names.
pub const PREDECESSORS_MAX: usize = 255;
/// Each of its bits costs a checksum over all of a meta.
const MENDED_META_BYTES: usize = 4096;
const MAGIC: u32 = u32::from_le_bytes(*b"FLr2");
const MAGIC_UNTAGGED: u32 = u32::from_le_bytes(*b"FLr1");

const MAGIC_AT: usize = 0;
const HEAD_CRC_AT: usize = MAGIC_AT + 4;
const LSN_AT: usize = HEAD_CRC_AT + 4;
pub(crate) const GENERATION_AT: usize = LSN_AT + 8;
const PID_AT: usize = GENERATION_AT + 4;
const START_AT: usize = PID_AT + 4;
const KIND_AT: usize = START_AT + 8;
const PREDECESSORS_AT: usize = KIND_AT + 1;
const META_BYTES_AT: usize = PREDECESSORS_AT + 1;
const DATA_BYTES_AT: usize = META_BYTES_AT + 2;
const DATA_CRC_AT: usize = DATA_BYTES_AT + 4;
const DURABLE_AT: usize = DATA_CRC_AT + 4;
const WALL_AT: usize = DURABLE_AT + 4;
const TAG_AT: usize = WALL_AT + 8;
const _: () = assert!(TAG_AT + 8 == HEADER_BYTES);

/// Where a frame stands. Its tag holds nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment's format version: the one before tags has none.
    pub version: u32,
    /// Identity of the log: nobody but its owner can read it.
    pub log: u128,
    pub segment: SegmentId,
    /// Offset in the segment.
    pub at: u32,
}

impl Place {
    fn magic(&self) -> u32 {
        if self.version == UNTAGGED { MAGIC_UNTAGGED } else { MAGIC }
    }

    /// SipHash-2-4 (Aumasson & Bernstein 2012) of the place and the header's checksum.
    fn tag(&self, generation: u32, crc: u32) -> u64 {
        if self.version == UNTAGGED || cfg!(fuzzing) {
            return 0;
        }
        let mut h = SipHasher24::new_with_key(&self.log.to_le_bytes());
        h.write_u32(self.segment.0.to_le());
        h.write_u32(generation.to_le());
        h.write_u32(self.at.to_le());
        h.write_u32(crc.to_le());
        h.finish()
    }
}

/// A number that tells one log from others and says nothing of its identity.
pub fn public_tag(log: u128) -> u64 {
    let mut h = SipHasher24::new_with_key(&log.to_le_bytes());
    h.write(b"the log's public tag");
    h.finish()
}

/// Whether bytes begin as a record does, but for at most one bit.
pub fn begins_like_one(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|b| (u32::from_le_bytes(*b) ^ MAGIC).count_ones() <= 1)
}

/// The header of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub lsn: Lsn,
    pub generation: u32,
    /// The client: its process id and start time (clock ticks since boot), 0 for the gateway.
    pub pid: u32,
    pub start: u64,
    /// Which mutation the meta holds (opaque here).
    pub kind: u8,
    pub predecessors: u8,
    pub meta_bytes: u16,
    pub data_bytes: u32,
    pub data_crc: u32,
    /// How far the segment was durable when the record was appended.
    pub durable: u32,
    /// Wall clock at the append, nanoseconds since 1970.
    pub wall_ns: i64,
}

/// Bytes a frame takes in its segment, padding included.
pub fn frame_bytes(meta: usize, data: usize) -> usize {
    (HEADER_BYTES + meta + data).next_multiple_of(ALIGN)
}

fn u32_at(b: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| b[at + i]))
}

/// CRC of a data part under the segment's seed.
pub fn data_crc(segment: SegmentId, generation: u32, data: &[u8]) -> u32 {
    crc_more(seed(segment, generation), data)
}

impl Header {
    /// The header's bytes, its checksum taken over them and `meta`.
    pub fn encode(&self, place: &Place, meta: &[u8]) -> [u8; HEADER_BYTES] {
        let mut b = [0u8; HEADER_BYTES];
        b[MAGIC_AT..HEAD_CRC_AT].copy_from_slice(&place.magic().to_le_bytes());
        b[LSN_AT..GENERATION_AT].copy_from_slice(&self.lsn.0.to_le_bytes());
        b[GENERATION_AT..PID_AT].copy_from_slice(&self.generation.to_le_bytes());
        b[PID_AT..START_AT].copy_from_slice(&self.pid.to_le_bytes());
        b[START_AT..KIND_AT].copy_from_slice(&self.start.to_le_bytes());
        b[KIND_AT] = self.kind;
        b[PREDECESSORS_AT] = self.predecessors;
        b[META_BYTES_AT..DATA_BYTES_AT].copy_from_slice(&self.meta_bytes.to_le_bytes());
        b[DATA_BYTES_AT..DATA_CRC_AT].copy_from_slice(&self.data_bytes.to_le_bytes());
        b[DATA_CRC_AT..DURABLE_AT].copy_from_slice(&self.data_crc.to_le_bytes());
        b[DURABLE_AT..WALL_AT].copy_from_slice(&self.durable.to_le_bytes());
        b[WALL_AT..TAG_AT].copy_from_slice(&self.wall_ns.to_le_bytes());
        let crc = head_crc(place.segment, self.generation, &b, meta);
        b[HEAD_CRC_AT..LSN_AT].copy_from_slice(&crc.to_le_bytes());
        b[TAG_AT..].copy_from_slice(&place.tag(self.generation, crc).to_le_bytes());
        b
    }

    /// Reads the header at the start of `bytes` and checks it and its meta. `bytes` may run on past
    /// the frame; a frame that does not fit into it is malformed. The data's checksum is the
    /// caller's to check.
    pub fn decode(place: &Place, generation: u32, bytes: &[u8]) -> Result<Header, Malformed> {
        let b: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Malformed("record header: cut short"))?;
        if u32_at(b, MAGIC_AT) != place.magic() {
            return Err(Malformed("record header: no magic"));
        }
        let h = Header {
            lsn: Lsn(u64_at(b, LSN_AT)),
            generation: u32_at(b, GENERATION_AT),
            pid: u32_at(b, PID_AT),
            start: u64_at(b, START_AT),
            kind: b[KIND_AT],
            predecessors: b[PREDECESSORS_AT],
            meta_bytes: u16::from_le_bytes([b[META_BYTES_AT], b[META_BYTES_AT + 1]]),
            data_bytes: u32_at(b, DATA_BYTES_AT),
            data_crc: u32_at(b, DATA_CRC_AT),
            durable: u32_at(b, DURABLE_AT),
            wall_ns: u64_at(b, WALL_AT) as i64,
        };
        if h.generation != generation {
            return Err(Malformed("record header: another generation"));
        }
        let meta = bytes
            .get(HEADER_BYTES..HEADER_BYTES + h.meta_bytes as usize)
            .ok_or(Malformed("record meta: cut short"))?;
        let crc = u32_at(b, HEAD_CRC_AT);
        let tag = u64_at(b, TAG_AT);
        let untagged = {
            let mut c = *b;
            c[TAG_AT..].fill(0);
            c
        };
        if head_crc(place.segment, generation, &untagged, meta) != crc {
            return Err(Malformed("record header: checksum"));
        }
        if tag != place.tag(generation, crc) {
            return Err(Malformed("record header: not of this log, or not of this place"));
        }
        if h.frame_bytes() > bytes.len().next_multiple_of(ALIGN)
            || h.meta_bytes as usize + HEADER_BYTES + h.data_bytes as usize > bytes.len()
            || h.predecessors as usize * 8 > h.meta_bytes as usize
            || h.lsn == Lsn::NONE
        {
            return Err(Malformed("record header: lengths"));
        }
        Ok(h)
    }

    /// As `decode`, for a frame of which one bit of header or meta may have flipped: it is found by trying each, and put
    /// right in `bytes`. Checksum and tag together leave no doubt which it was; without a tag nothing is tried.
    /// Only what begins with the magic, but for one bit, is looked at, and of a meta its first `MENDED_META_BYTES`.
    pub fn decode_mended(place: &Place, generation: u32, bytes: &mut [u8]) -> Option<Header> {
        let head: [u8; HEADER_BYTES] = *bytes.first_chunk()?;
        let off = (u32_at(&head, MAGIC_AT) ^ MAGIC).count_ones();
        if place.version == UNTAGGED || cfg!(fuzzing) || off > 1 {
            return None;
        }
        let meta = u16::from_le_bytes([head[META_BYTES_AT], head[META_BYTES_AT + 1]]) as usize;
        let in_head = 0..HEADER_BYTES * 8;
        let meta = meta.min(MENDED_META_BYTES);
        let in_meta = HEADER_BYTES * 8..(HEADER_BYTES + meta).min(bytes.len()) * 8;
        for bit in in_head.chain(in_meta) {
            // The magic has the flipped bit, or it lies elsewhere.
            if (off == 1) != (bit < 32) {
                continue;
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(h) = Header::decode(place, generation, bytes) {
                return Some(h);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        None
    }

    /// Bytes the frame takes, padding included.
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.meta_bytes as usize, self.data_bytes as usize)
    }
    /// Offset of the data from the start of the frame.
    pub fn data_at(&self) -> usize {
        HEADER_BYTES + self.meta_bytes as usize
    }
}

fn head_crc(segment: SegmentId, generation: u32, b: &[u8; HEADER_BYTES], meta: &[u8]) -> u32 {
    crc_more(crc_more(seed(segment, generation), &b[LSN_AT..]), meta)
}

/// The predecessors named at the start of a meta that `Header::decode` accepted.
pub fn predecessors(count: u8, meta: &[u8]) -> impl Iterator<Item = Lsn> + '_ {
    meta.chunks_exact(8).take(count as usize).map(|c| Lsn(u64::from_le_bytes(std::array::from_fn(|i| c[i]))))
}
