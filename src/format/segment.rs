//! The header of a segment file: its first 4,096 bytes (256 used). Records follow at 4,096.

use super::checksum::crc;
use super::codec::{Malformed, Reader, Writer};
use crate::types::SegmentId;

/// Where records start.
pub const RECORDS_AT: usize = 4096;
/// The version this build writes.
pub const VERSION: u32 = 3;
/// The version before records had tags. It is still read.
pub const UNTAGGED: u32 = 2;
const MAGIC: &[u8; 8] = b"FORELOGS";
const USED: usize = 8 + 4 + 4 + 4 + 8 + 16 + 4;

/// What a segment file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub id: SegmentId,
    /// Raised each time the file is used anew.
    pub generation: u32,
    pub size: u64,
    /// The log it belongs to.
    pub log: u128,
    /// `VERSION`, or the older one that is read.
    pub version: u32,
}

impl SegmentHeader {
    /// The header block.
    pub fn encode(&self) -> Vec<u8> {
        let mut v = Vec::with_capacity(USED);
        let mut w = Writer(&mut v);
        w.0.extend_from_slice(MAGIC);
        w.u32(self.version);
        w.u32(self.id.0);
        w.u32(self.generation);
        w.u64(self.size);
        w.0.extend_from_slice(&self.log.to_le_bytes());
        let c = crc(&v);
        Writer(&mut v).u32(c);
        v
    }

    /// Reads the header block.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, Malformed> {
        let mut r = Reader::new(bytes, "segment header");
        if r.take(8)? != MAGIC {
            return Err(Malformed("segment header: no magic"));
        }
        let version = r.u32()?;
        let (id, generation, size) = (SegmentId(r.u32()?), r.u32()?, r.u64()?);
        let mut log = [0u8; 16];
        log.copy_from_slice(r.take(16)?);
        let sum = r.u32()?;
        if crc(&bytes[..USED - 4]) != sum {
            return Err(Malformed("segment header: checksum"));
        }
        if ![VERSION, UNTAGGED].contains(&version) {
            return Err(Malformed("segment header: written by another version"));
        }
        Ok(SegmentHeader { id, generation, size, log: u128::from_le_bytes(log), version })
    }
}
